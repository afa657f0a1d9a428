"""Image files and arrays of any kind are read as they are written, or refused in one line that names the file."""

import io
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from fedtl.data.image_files import load_images
from fedtl.data.npz import rows_of_arrays
from fedtl.data.preprocess import fit_inputs
from fedtl.data.settings import DataSettings
from fedtl.errors import DataError

MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "I;16B"]
FORMATS = {"png": "PNG", "tif": "TIFF", "bmp": "BMP", "ppm": "PPM", "gif": "GIF", "webp": "WEBP"}
TYPES = ["u1", "u2", ">u2", "u4", "u8", "i1", "i2", ">i4", "f2", "f4", ">f8", "c8", "?", "U3"]
FEW = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


def read_or_refused(work, file):
    """The array, or None where it is refused in one line that names the file."""
    try:
        return work()
    except DataError as error:
        text = str(error)
    assert file in text
    assert "\n" not in text
    return None


def as_viewed(image):
    """RGB of 0..1 as Pillow shows an opaque picture."""
    if image.mode.startswith("I;16"):
        return np.repeat((np.asarray(image) / 65535)[..., None], 3, 2)
    return np.asarray(image.convert("RGB")) / 255


@FEW
@given(mode=st.sampled_from(MODES), suffix=st.sampled_from(sorted(FORMATS)), data=st.data())
def test_a_picture_is_right_or_refused(tmp_path, mode, suffix, data):
    width, height = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    size = len(Image.new(mode, (width, height)).tobytes())
    image = Image.frombytes(mode, (width, height), data.draw(st.binary(min_size=size, max_size=size)))
    if mode in ("P", "PA"):
        image.putpalette([channel * number % 256 for number in range(256) for channel in (1, 3, 7)])
    path = tmp_path / f"a.{suffix}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.save(path, FORMATS[suffix], **({"lossless": True} if suffix == "webp" else {}))
    except (OSError, ValueError, KeyError, SystemError):
        return  # a format without this mode
    own = DataSettings(source="images", channels=3)
    if (x := read_or_refused(lambda: load_images([path], own).x, str(path))) is None:
        return
    assert x.shape == (1, height, width, 3)
    assert x.dtype in (np.uint8, np.uint16)
    with Image.open(path) as written:
        if written.mode == "I":  # of PPM, whose 16 bits Pillow opens so
            expected = np.repeat((np.asarray(written) / 65535)[..., None], 3, 2)
        else:
            assert not written.has_transparency_data or written.convert("RGBA").getextrema()[3] == (255, 255)
            expected = as_viewed(written)
    assert np.abs(x[0] / np.iinfo(x.dtype).max - expected).max() < 1 / 255 + 1e-9


@FEW
@given(
    content=st.binary(max_size=200),
    suffix=st.sampled_from(["png", "tif", "gif", "webp", "jpg", "bmp", "pgm", "dcm", "nii", "nii.gz"]),
)
@example(content=b"", suffix="dcm")
@example(content=bytes(128) + b"DICM", suffix="dcm")
def test_any_bytes_end_in_one_line(tmp_path, content, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataError, match=r"a\.") as error:
            load_images([path], DataSettings(source="images", slices={"axis": "axial"}))
    assert "\n" not in str(error.value)


@FEW
@given(
    place=st.integers(0, 10_000),
    value=st.integers(0, 255),
    kind=st.sampled_from(["PNG", "TIFF", "GIF", "PPM"]),
)
def test_a_damaged_picture_is_read_or_refused(tmp_path, place, value, kind):
    file = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(file, kind)
    content = bytearray(file.getvalue())
    content[place % len(content)] = value
    path = tmp_path / f"a.{kind[:3].lower()}"
    path = path.with_suffix({".ppm": ".pgm"}.get(path.suffix, path.suffix))
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = read_or_refused(lambda: load_images([path], DataSettings(source="images")).x, str(path))
    assert x is None or x.dtype.kind == "u"


@FEW
@given(kind=st.sampled_from(TYPES), volumes=st.booleans(), declared=st.booleans(), data=st.data())
def test_an_array_of_any_type_is_right_or_refused(kind, volumes, declared, data):
    shape = data.draw(arrays.array_shapes(min_dims=2, max_dims=5, min_side=1, max_side=4))
    x = data.draw(arrays.arrays(kind, shape))
    own = DataSettings(
        source="npz", kind="volumes" if volumes else "auto", pixel_range=[-3.0, 5.0] if declared else []
    )
    arrays_of_a_file = {"train_x": x, "train_y": np.zeros(len(x), int)}
    raw = read_or_refused(lambda: rows_of_arrays(arrays_of_a_file, own, "a.npz"), "a.npz")
    if raw is None or x.dtype.kind not in "uif":  # other types are refused by the checks of all sources
        return
    with np.errstate(all="ignore"):
        seen = fit_inputs(raw.train.x, raw.train.y, raw.columns, own, "a").apply(raw.train.x)
    assert seen.dtype in (np.uint8, np.float32)
    assert seen.ndim == (2 if x.ndim == 2 else 5 if volumes else 4)
    if x.ndim == 2:
        return
    axes = seen[:, 0] if volumes or x.ndim == 3 else np.moveaxis(seen, 1, 3)
    values = x.astype(np.float64)
    if declared:
        fits = np.abs(values) <= np.finfo(np.float32).max
        expected = np.where(fits, (values.clip(-3, 5) + 3) / 4 - 1, 0)
        assert np.allclose(axes, expected, atol=1e-5)
    elif x.dtype.kind == "u" and x.dtype.itemsize <= 2:
        white = np.iinfo(x.dtype).max
        assert np.allclose(
            axes if axes.dtype == np.uint8 else (axes + 1) / 2 * white, values, rtol=1e-4, atol=0.01
        )
    else:
        assert np.isfinite(seen).all()
