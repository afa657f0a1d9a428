"""Image files in folders: classes, parts, sizes, colours, depths."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fedtl.data.image_files import load_images
from fedtl.data.images import read, silos
from fedtl.data.npz import rows_of_arrays
from fedtl.data.parts import split_rows
from fedtl.data.preprocess import fit_inputs
from fedtl.data.settings import DataSettings
from fedtl.errors import DataError

DEEP = np.array([[0, 256, 30000, 65535]], np.uint16)
GREY, RED = np.full((8, 6), 200, np.uint8), np.full((8, 6, 3), (250, 0, 0), np.uint8)


def settings(path, **more):
    return DataSettings(source="images", path=str(path), **more)


def load(paths, size="native", channels="native", **more):
    return load_images(paths, settings("", size=size, channels=channels, **more)).x


def save(pixels, *parts):
    path = parts[0].joinpath(*parts[1:])
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def two_classes(home, pixels=GREY, count=2):
    for kind in ("cat", "dog"):
        for number in range(count):
            save(pixels, home, kind, f"{number}.png")


def test_class_folders(tmp_path):
    two_classes(tmp_path / "clinic")
    (tmp_path / "clinic" / "cat" / "notes.txt").write_text("no image")
    for name in (".hidden", "__MACOSX"):
        (tmp_path / name).mkdir()
        (tmp_path / "clinic" / name).mkdir()
    assert silos(settings(tmp_path)) == ["clinic"]
    raw = read(settings(tmp_path), "clinic")
    assert raw.train.x.shape == (4, 8, 6)
    assert raw.train.x.dtype == np.uint8
    assert (raw.train.x == 200).all()
    assert raw.train.y.tolist() == ["cat", "cat", "dog", "dog"]
    assert raw.val is raw.test is None


def test_folders_of_parts(tmp_path):
    for part, count in (("train", 3), ("val", 1), ("test", 2)):
        two_classes(tmp_path / "a" / part, np.full((4, 4), 10 * count, np.uint8), count)
    raw = read(settings(tmp_path), "a")
    for part, count in ((raw.train, 3), (raw.val, 1), (raw.test, 2)):
        assert part.y.tolist() == ["cat"] * count + ["dog"] * count
        assert (part.x == 10 * count).all()


def test_parts_without_training_files_are_refused(tmp_path):
    two_classes(tmp_path / "a" / "test")
    with pytest.raises(DataError, match="none named train"):
        read(settings(tmp_path), "a")


def test_a_silo_with_one_colour_file_has_only_colour_images(tmp_path):
    two_classes(tmp_path / "a" / "train")
    two_classes(tmp_path / "a" / "test", RED)
    raw = read(settings(tmp_path), "a")
    assert raw.train.x.shape == (4, 8, 6, 3)
    assert (raw.train.x == 200).all()
    assert (raw.test.x == (250, 0, 0)).all()


@pytest.mark.parametrize("late", ["train/dog/9.png", "test/cat/9.png"])
def test_sizes_that_differ_are_refused_with_the_file_and_the_setting(tmp_path, late):
    two_classes(tmp_path / "a" / "train")
    two_classes(tmp_path / "a" / "test")
    odd = save(np.zeros((5, 7), np.uint8), tmp_path, "a", late)
    with pytest.raises(DataError) as error:
        read(settings(tmp_path), "a")
    for part in (f"{odd} is 7 x 5 px", "6 x 8 px", "data.size"):
        assert part in str(error.value)
    raw = read(settings(tmp_path, size=4), "a")
    assert raw.train.x.shape[1:] == raw.test.x.shape[1:] == (4, 4)


def test_resizing_keeps_a_constant_image(tmp_path):
    path = save(GREY, tmp_path, "a.png")
    assert (load([path], 3, "native") == 200).all()
    assert (load([path], 16, "native") == 200).all()


def test_grey_and_colour_as_asked(tmp_path):
    paths = [save(GREY, tmp_path, "grey.png"), save(RED, tmp_path, "red.png")]
    assert load(paths, "native", 3).shape == load(paths, "native", "native").shape == (2, 8, 6, 3)
    grey = load(paths, "native", 1)
    assert grey.shape == (2, 8, 6)
    assert (grey[0] == 200).all()
    assert np.abs(grey[1] - 0.299 * 250).max() <= 1
    assert load(paths[:1], "native", "native").shape == (1, 8, 6)


def test_grey_with_alpha_and_one_bit_are_grey(tmp_path):
    alpha, bit = tmp_path / "alpha.png", tmp_path / "bit.png"
    Image.new("LA", (6, 8), (90, 255)).save(alpha)
    Image.new("1", (6, 8), 1).save(bit)
    assert load([alpha, bit], "native", "native")[:, 0, 0].tolist() == [90, 255]


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_are_read_in_full(tmp_path, suffix):
    path = save(DEEP, tmp_path, f"deep.{suffix}")
    x = load([path])
    assert x.dtype == np.uint16
    assert x[0].tolist() == DEEP.tolist()
    assert load([path], pixel_bits=8).tolist() == [[[0, 1, 117, 255]]]
    assert load([path], channels=3)[0, 0, 2].tolist() == [30000] * 3


@pytest.mark.parametrize("pixels", [GREY, RED, DEEP])
def test_a_picture_and_an_array_are_the_same_input(tmp_path, pixels):
    path, own = save(pixels, tmp_path, "a.png"), settings("")
    seen = fit_inputs(load([path]), np.zeros(1), (), own, "a").apply(load([path]))
    raw = rows_of_arrays({"train_x": pixels[None], "train_y": np.zeros(1)}, own, "a.npz")
    assert np.array_equal(fit_inputs(raw.train.x, raw.train.y, (), own, "a").apply(raw.train.x), seen)
    if pixels is DEEP:
        assert np.allclose(seen[0, 0], DEEP / 65535 * 2 - 1, atol=1e-6)


def test_both_depths_in_one_silo_are_the_same_brightness(tmp_path):
    paths = [
        save(DEEP, tmp_path, "deep.png"),
        save(np.array([[0, 1, 117, 255]], np.uint8), tmp_path, "flat.png"),
    ]
    assert load(paths)[1].tolist() == [[0, 257, 117 * 257, 65535]]
    with pytest.raises(
        DataError, match="pixel_bits = 8"
    ):  # one record must not change the numbers of the others
        load(paths, by_record=True)
    assert load(paths, by_record=True, pixel_bits=8)[0].tolist() == [[0, 1, 117, 255]]


@pytest.mark.parametrize("declared", [[], [0, 4095]])
def test_files_of_eight_bits_beside_those_of_a_camera_of_twelve_are_refused(tmp_path, declared):
    paths = [
        save(DEEP // 16, tmp_path, "twelve.png"),
        save(np.array([[9, 255]], np.uint8), tmp_path, "flat.png"),
    ]
    with pytest.raises(DataError, match=r"flat.png .*twelve.png .*depth"):
        load(paths, size=4, pixel_range=declared)
    assert load(paths, size=4, pixel_range=[0, 255]).max() == (DEEP // 16).max()


def test_numbers_without_a_range_need_a_declared_one(tmp_path):
    for name, pixels in (
        ("float.tif", np.array([[-1.5, 2.5]], np.float32)),
        ("int.tif", np.array([[-5, 70000]], np.int32)),
    ):
        path = save(pixels, tmp_path, name)
        with pytest.raises(DataError, match="data.pixel_range"):
            load([path])
        assert load([path], pixel_range=[0.0, 10.0])[0].tolist() == pixels.tolist()
    own = settings("", pixel_range=[0.0, 10.0])
    assert fit_inputs(pixels[None], np.zeros(1), (), own, "a").apply(pixels[None]).tolist() == [[[[-1, 1]]]]


def tiff(bits, sample_format, photometric, data, width, samples=1):
    """An uncompressed TIFF of one row, with what its header says about the pixels."""
    tags = [(256, 3, width), (257, 3, 1), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 0)]
    tags += [(277, 3, samples), (278, 3, 1), (279, 4, len(data)), (339, 3, sample_format)]
    start = 14 + 12 * len(tags)
    out = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    for tag, kind, value in tags:
        out += struct.pack("<HHII", tag, kind, 1, start if tag == 273 else value)
    return out + struct.pack("<I", 0) + data


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (tiff(16, 1, 0, np.array([0, 65535, 1000], "<u2").tobytes(), 3), [65535, 0, 64535]),  # white is 0
        (tiff(12, 1, 1, bytes([0, 0x0F, 0xFF]), 2), [0, 65535]),  # the pixels 0 and 4095
        (tiff(8, 1, 0, bytes([0, 100, 255]), 3), [255, 155, 0]),
        (tiff(32, 1, 1, np.array([0, 4_000_000_000], "<u4").tobytes(), 2), None),
        (tiff(8, 2, 1, bytes([0, 255]), 2), None),  # signed
        (tiff(16, 2, 1, np.array([0, -5], "<i2").tobytes(), 2), None),
    ],
)
def test_the_header_of_a_tiff_is_followed_or_the_file_refused(tmp_path, content, expected):
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    if expected is None:
        with pytest.raises(DataError, match=r"a\.tif"):
            load([path])
    else:
        assert load([path])[0, 0].tolist() == expected


def png(depth, colour_type, rows):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = len(rows), rows.shape[1]
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_colours_of_sixteen_bits_are_not_cut_unasked(tmp_path, colour_type, channels):
    path = tmp_path / "a.png"
    path.write_bytes(png(16, colour_type, np.full((2, 2, channels), 0xFFFF, ">u2")))
    with pytest.raises(DataError, match="pixel_bits = 8"):
        load([path])
    assert (load([path], pixel_bits=8) == 255).all()


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, 255),
        ("L", 77, 77),
        ("LA", (77, 255), 77),
        ("RGBA", (1, 2, 3, 255), (1, 2, 3)),
        ("CMYK", (0, 0, 0, 255), (0, 0, 0)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("YCbCr", (255, 128, 128), (255, 255, 255)),
        ("RGBA", (1, 2, 3, 254), None),
        ("LA", (77, 0), None),
        ("LAB", (200, 0, 0), None),
    ],
)
def test_every_mode_is_right_or_refused(tmp_path, mode, colour, expected):
    path = tmp_path / "a.tif"
    Image.new(mode, (3, 2), colour).save(path)
    if expected is None:
        with pytest.raises(DataError, match=r"a\.tif"):
            load([path])
    else:
        assert load([path])[0, 0, 0].tolist() == (list(expected) if isinstance(expected, tuple) else expected)


def test_a_transparent_colour_of_a_palette_is_refused(tmp_path):
    path, picture = tmp_path / "a.png", Image.fromarray(RED).quantize(4)
    picture.save(path)
    assert load([path])[0, 0, 0].tolist() == [250, 0, 0]
    picture.save(path, transparency=picture.getpixel((0, 0)))
    with pytest.raises(DataError, match="transparent"):
        load([path])


def test_predictions_for_another_kind_of_numbers_are_refused():
    pixels, numbers = np.zeros((3, 2, 2), np.uint8), np.zeros((3, 2, 2), np.float32)
    of_pixels, of_numbers = (fit_inputs(x, np.zeros(3), (), settings(""), "a") for x in (pixels, numbers))
    assert not of_pixels.unit_problem(pixels.astype(np.uint16))
    assert not of_numbers.unit_problem(numbers.astype(np.int16))
    assert "uint8" in of_pixels.unit_problem(numbers)
    assert "unit of their own" in of_numbers.unit_problem(pixels)
    declared = fit_inputs(pixels, np.zeros(3), (), settings("", pixel_range=[0.0, 1.0]), "a")
    assert not declared.unit_problem(numbers)


def test_broken_and_missing_files_are_named(tmp_path):
    two_classes(tmp_path / "a")
    (tmp_path / "a" / "cat" / "1.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"cat/1\.png"):
        read(settings(tmp_path), "a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty has no <class>"):
        read(settings(tmp_path), "empty")


def test_a_path_without_folders_is_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for path in (tmp_path, file):
        with pytest.raises(DataError, match="data.path"):
            silos(settings(path))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_the_orientation_of_a_camera_is_followed(tmp_path, orientation, suffix):
    """The same picture by another tag: stored turned or mirrored as the standard says, and shown upright."""
    picture = np.zeros((8, 16), np.uint8)
    picture[:4, :8] = 240
    stored = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.T,
        6: np.rot90(picture, 1),
        7: picture.T[::-1, ::-1],
        8: np.rot90(picture, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    assert np.abs(load([path], "native", 1)[0].astype(int) - picture).max() < 30


def test_a_class_without_a_readable_file_is_refused(tmp_path):
    two_classes(tmp_path / "a")
    (tmp_path / "a" / "none").mkdir()
    for number in range(3):
        (tmp_path / "a" / "none" / f"{number}.mha").touch()
    save(GREY, tmp_path, "a", "none", "patient", "0.png")
    with pytest.raises(DataError, match="none of its 4 files") as error:
        read(settings(tmp_path), "a")
    assert "3 .mha, 1 .png in folders below" in str(error.value)
    assert len(read(settings(tmp_path, by_record=True), "a").train.y) == 4
    (tmp_path / "a" / "cat" / "scan").write_bytes(b"DICM, but at the wrong place")
    with pytest.raises(DataError, match="scan"):
        read(settings(tmp_path, by_record=True), "a")


def test_with_by_record_no_file_decides_where_another_of_its_name_goes(tmp_path):
    """Their order follows from their contents: new pixels in one moved the other into or out of training."""
    here = settings(tmp_path, by_record=True, size=2, channels=1)

    def trained(changed, value):
        for number in range(6):
            for at, kind in enumerate(("cat", "dog")):
                grey = value if (number, kind) == (changed, "cat") else 20 * number + at + 20
                save(np.full((2, 2), grey, np.uint8), tmp_path, "a", kind, f"{number}.png")
        rows = read(here, "a")
        drawn = [split_rows(rows, here, "a", seed)[0].train for seed in range(8)]
        return [{int(x[0, 0]) for x in train.x} - {value} for train in drawn]

    for number in range(2):
        first, *others = (trained(number, value) for value in (0, 3, 9, 12, 255))
        assert all(other == first for other in others)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>"])
def test_a_file_that_is_no_picture_is_named_without_the_librarys_objects(content, tmp_path):
    two_classes(tmp_path / "a")
    (tmp_path / "a" / "cat" / "0.png").write_bytes(content)
    with pytest.raises(DataError, match="no picture") as error:
        read(settings(tmp_path), "a")
    assert "<_io" not in str(error.value)


def test_what_is_not_read_is_counted(tmp_path):
    two_classes(tmp_path / "a" / "train")
    two_classes(tmp_path / "a" / "test")
    assert read(settings(tmp_path), "a").unread == ()
    for name in ("notes.txt", "scan.mha", ".DS_Store", "Thumbs.db"):
        (tmp_path / "a" / "train" / "cat" / name).touch()
    (tmp_path / "a" / "train" / "dog" / "7.png").symlink_to(tmp_path / "nowhere.png")
    save(GREY, tmp_path, "a", "train", "9.png")
    save(GREY, tmp_path, "a", "more", "cat", "9.png")
    (tmp_path / "a" / "test" / "bird").mkdir()
    unread = "; ".join(read(settings(tmp_path), "a").unread)
    for part in (
        "1 file of train/dog",
        "cannot be opened",
        "2 files of train/cat",
        "1 .mha, 1 .txt",
        "1 image of train",
        "test/bird",
        "more next to",
    ):
        assert part in unread


def test_gif_and_palettes_are_read_and_several_pages_refused(tmp_path):
    picture = Image.fromarray(RED).quantize(4)
    picture.save(tmp_path / "a.gif")
    assert (load([tmp_path / "a.gif"], "native", "native")[0, 0, 0] == (250, 0, 0)).all()
    for suffix in ("tif", "gif", "png"):
        path = tmp_path / f"b.{suffix}"
        Image.fromarray(GREY).save(path, save_all=True, append_images=[Image.fromarray(GREY // 2)])
        with pytest.raises(DataError, match="holds 2 images"):
            load([path], "native", "native")
