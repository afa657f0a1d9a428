"""Volumes [N, D, H, W]: declared, resized along each axis, and never mistaken for channels."""

import numpy as np
import pytest
from scipy.ndimage import zoom

from fedtl.data.image_sizes import sizes_before
from fedtl.data.npz import rows_of_arrays
from fedtl.data.preprocess import Inputs, fit_inputs
from fedtl.data.settings import DataSettings
from fedtl.errors import DataError

RNG = np.random.default_rng(0)
VOLUMES = DataSettings(source="npz", kind="volumes")


def read(x, settings=VOLUMES):
    return rows_of_arrays({"train_x": x, "train_y": np.arange(len(x))}, settings, "a.npz")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_one_channel_in_front_of_the_axes(dtype):
    x = (RNG.random((5, 3, 6, 7)) * 100).astype(dtype)
    seen = fit_inputs(x, np.arange(5), (), VOLUMES, "a").apply(read(x).train.x)
    assert seen.shape == (5, 1, 3, 6, 7)
    own = x.astype(float)
    expected = {
        "uint8": own,
        "uint16": own / 65535 * 2 - 1,
        **dict.fromkeys(("int16", "float32"), (own - own.mean()) / own.std()),
    }[x.dtype.name]
    assert np.allclose(seen[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 6, 6), (4, 5)])
def test_other_axes_are_refused(shape):
    with pytest.raises(DataError, match="needs N, D, H, W"):
        read(np.zeros(shape))


def test_three_slices_are_no_colours():
    x = np.zeros((4, 3, 6, 6), np.uint8)
    assert read(x).train.x.shape == x.shape
    with pytest.raises(DataError, match='data.kind = "volumes"'):
        read(x, DataSettings(source="npz"))


def test_every_axis_is_resized():
    ramp = np.linspace(0, 1, 12)[:, None, None] + np.linspace(0, 2, 16)[:, None] + np.linspace(0, 4, 8)
    seen = Inputs(4, "native", (), kind="volumes").apply(ramp[None].astype(np.float32))
    assert seen.shape == (1, 1, 4, 4, 4)
    for axis, height in (
        (0, 1),
        (1, 2),
        (2, 4),
    ):  # a slope stays a slope: pixel centres are half a pixel inside
        steps = np.diff(np.moveaxis(seen[0, 0], axis, 0)[1:3], axis=0)
        assert np.allclose(
            steps, height / (len(np.moveaxis(ramp, axis, 0)) - 1) * (ramp.shape[axis] / 4), atol=1e-5
        )
    larger = Inputs(16, "native", (), kind="volumes").apply(seen[:, 0])
    assert np.allclose(larger[0, 0], zoom(seen[0, 0], 4, order=1, grid_mode=True, mode="nearest"), atol=1e-5)


@pytest.mark.parametrize(("sides", "told"), [((4, 5, 6), "4 x 5 x 6"), ((4, 4, 4), None)])
def test_the_sizes_of_arrays_before_data_size(sides, told):
    chosen = VOLUMES.model_copy(update={"size": 4})
    found = sizes_before(read(np.zeros((3, *sides), np.uint8), chosen), chosen)
    assert found is None if told is None else (str(found), found.changed, found.worst) == (told, 1.0, sides)
    assert sizes_before(read(np.zeros((3, *sides), np.uint8)), VOLUMES) is None


def test_pixels_stay_pixels_when_resized():
    x = np.full((2, 4, 8, 6), 77, np.uint8)
    seen = Inputs(3, "native", (), kind="volumes").apply(x)
    assert seen.dtype == np.uint8
    assert (seen == 77).all()
