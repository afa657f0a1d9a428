"""Embedded profiles and gammas, against the formulas of Adobe RGB (1998), sRGB and CIE L*a*b*."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from fedtl.data.colours import array_in_srgb
from fedtl.data.image_files import load_images
from fedtl.data.settings import DataSettings
from fedtl.errors import DataError

# Columns: the primaries of the space at D50, as the profiles of Adobe and of the ICC have them.
ADOBE = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
D50 = (0.9642, 1.0, 0.8249)
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
PNG = "a.png"


def fixed(*values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def profile(space, gamma, primaries=None):
    """Return a profile of the ICC, version 2, with one power for all channels."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * 78 + b"\0"
    tags = {b"desc": text, b"wtpt": b"XYZ \0\0\0\0" + fixed(*D50), b"cprt": b"text\0\0\0\0none\0\0\0\0"}
    if primaries is None:
        tags[b"kTRC"] = curve
    else:
        for name, column in zip("rgb", primaries.T, strict=True):
            tags[name.encode() + b"XYZ"] = b"XYZ \0\0\0\0" + fixed(*column)
            tags[name.encode() + b"TRC"] = curve
    return of_tags(tags, b"mntr", space, b"XYZ ")


def of_inks():
    """Return a profile of CMYK in which paper is white and lightness L* falls in proportion to black; other inks do nothing."""
    linear = bytes(range(256))
    nodes = b"".join(bytes([0 if number % 2 else 255, 128, 128]) for number in range(16))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * 79,
        b"wtpt": b"XYZ \0\0\0\0" + fixed(*D50),
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
        b"A2B0": table + 4 * linear + nodes + 3 * linear,
    }
    return of_tags(tags, b"prtr", b"CMYK", b"Lab ")


def of_tags(tags, kind, space, connection):
    start, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, value in tags.items():
        table += name + struct.pack(">II", start + len(body), len(value))
        body += value + b"\0" * (-len(value) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"lcms", 0x02400000, kind, space, connection)
    head += b"\0" * 12 + b"acsp" + b"\0" * 28 + fixed(*D50) + b"\0" * 48
    return head + struct.pack(">I", len(tags)) + table + body


def encoded(light):
    """Return the levels of sRGB (IEC 61966-2-1)."""
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def read(path, **keys):
    return load_images([path], DataSettings(source="images", **keys)).x[0].astype(float)


def save(pixels, path, **keys):
    Image.fromarray(pixels).save(path, **keys)
    return path


def test_colours_of_another_space_become_those_of_srgb(tmp_path):
    path = save(PIXELS, tmp_path / PNG, icc_profile=profile(b"RGB ", 2.19921875, ADOBE))
    light = (PIXELS / 255) ** 2.19921875 @ ADOBE.T @ np.linalg.inv(SRGB).T
    assert np.abs(read(path) - encoded(light)).max() < 2.5
    assert np.abs(read(path) - PIXELS).max() > 20


def test_a_profile_of_srgb_changes_no_pixel(tmp_path):
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert (read(save(PIXELS, tmp_path / PNG, icc_profile=plain)) == PIXELS).all()


def test_grey_of_another_curve_becomes_that_of_srgb(tmp_path):
    grey = PIXELS[..., 0]
    expected = encoded((grey / 255) ** 1.4)
    path = save(grey, tmp_path / PNG, icc_profile=profile(b"GRAY", 1.4))
    assert read(path).shape == grey.shape
    assert np.abs(read(path) - expected).max() < 2.5
    both = save(grey, tmp_path / "b.png", icc_profile=profile(b"RGB ", 1.4, SRGB))
    assert np.abs(read(both) - expected).max() < 2.5
    assert (read(save(PIXELS, tmp_path / "c.png", icc_profile=profile(b"GRAY", 1.4))) == PIXELS).all()


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_inks_become_the_colours_of_their_profile(tmp_path, suffix):
    lightness = np.linspace(0, 1, 64).reshape(8, 8)
    inks = np.zeros((8, 8, 4), np.uint8)
    inks[..., 3] = (255 * (1 - lightness)).round()
    file = tmp_path / f"a.{suffix}"
    quality = {"quality": 100} if suffix == "jpg" else {}
    Image.fromarray(inks, "CMYK").save(file, icc_profile=of_inks(), **quality)
    light = ((100 * lightness + 16) / 116) ** 3
    light = np.where(100 * lightness > 8, light, 100 * lightness / 903.3)
    expected = np.repeat(encoded(light)[..., None], 3, -1)
    assert np.abs(read(file) - expected).max() < (6 if suffix == "jpg" else 2.5)
    assert np.abs(255 * lightness[..., None] - expected).max() > 8


def test_a_gamma_that_a_png_states_is_followed(tmp_path):
    def chunk(gamma):
        data = io.BytesIO()
        Image.fromarray(PIXELS).save(data, "PNG")
        body = b"gAMA" + struct.pack(">I", round(gamma * 100000))
        inside = struct.pack(">I", 4) + body + struct.pack(">I", zlib.crc32(body))
        path = tmp_path / f"{gamma}.png"
        path.write_bytes(data.getvalue()[:33] + inside + data.getvalue()[33:])
        return path

    assert np.abs(read(chunk(1.0)) - encoded(PIXELS / 255)).max() <= 0.5
    assert (read(chunk(0.45455)) == PIXELS).all()


def test_deep_grey_with_a_profile_is_refused_but_for_declared_numbers(tmp_path):
    deep = PIXELS[..., 0].astype(np.uint16) * 257
    path = save(deep, tmp_path / PNG, icc_profile=profile(b"GRAY", 1.4))
    with pytest.raises(DataError, match="data.pixel_range"):
        read(path)
    assert (read(path, pixel_range=[0, 65535]) == deep).all()


def test_a_damaged_profile_is_named(tmp_path):
    with pytest.raises(DataError, match="profile that cannot"):
        read(save(PIXELS, tmp_path / PNG, icc_profile=b"nothing"))


def test_an_array_with_a_profile_becomes_what_its_picture_does(tmp_path):
    own = profile(b"RGB ", 2.19921875, ADOBE)
    shown = array_in_srgb(PIXELS, own, "a.dcm")
    assert (shown == read(save(PIXELS, tmp_path / PNG, icc_profile=own))).all()
