"""NIfTI files that nibabel writes: orientation, slices, whole volumes, units, damage."""

import gzip

import nibabel
import numpy as np
import pytest

from fedtl.data import bounded
from fedtl.data.image_files import load_images
from fedtl.data.images import read
from fedtl.data.nifti import read_nifti
from fedtl.data.settings import DataSettings
from fedtl.data.spacings import spacings_of
from fedtl.errors import DataError

VALUES = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)  # [X, Y, Z]: to the right, the front, the head


def settings(**more):
    return DataSettings(source="images", **more)


def sliced(axis, by_record=False, **more):
    return settings(slices={"axis": axis} | more, by_record=by_record)


@pytest.fixture
def written(tmp_path):
    def write(values=VALUES, affine=None, name="a.nii", kind=nibabel.Nifti1Image, **header):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = kind(values, np.eye(4) if affine is None else affine)
        if header:
            image.header.set_slope_inter(**header)
        nibabel.save(image, path)
        return path

    return write


def at(x, y, z):
    """What a viewer shows: up is the head or the front, right is the patient's right."""
    return float(VALUES[x, y, z])


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_slices_across_each_axis(written, kind, name):
    path = written(kind=kind, name=name)
    axial, coronal, sagittal = (read_nifti(path, sliced(axis)) for axis in ("axial", "coronal", "sagittal"))
    assert (axial.shape, coronal.shape, sagittal.shape) == ((5, 4, 3), (4, 5, 3), (3, 5, 4))
    for plane, row, column, expected in (
        (axial[2], 0, 1, at(1, 3, 2)),
        (axial[2], 3, 0, at(0, 0, 2)),
        (coronal[1], 0, 2, at(2, 1, 4)),
        (coronal[1], 4, 0, at(0, 1, 0)),
        (sagittal[2], 0, 0, at(2, 0, 4)),
        (sagittal[2], 4, 3, at(2, 3, 0)),
    ):
        assert plane[row, column] == expected


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
def test_every_way_to_store_a_volume_is_the_same_volume(written, axes, signs):
    affine = np.eye(4)
    stored = VALUES
    for axis, sign in enumerate(signs):
        if sign < 0:
            stored = np.flip(stored, axis)
            affine[axis, axis], affine[axis, 3] = -1, VALUES.shape[axis] - 1
    affine = affine[:, [*axes, 3]]
    whole = read_nifti(written(stored.transpose(axes), affine), settings(kind="volumes"))
    assert whole.shape == (1, 5, 4, 3)
    assert np.array_equal(whole[0], read_nifti(written(name="b.nii"), sliced("axial")))


def test_slope_and_intercept_are_applied(written):
    assert np.allclose(
        read_nifti(written(slope=0.5, inter=-3), sliced("axial"))[0, 0], VALUES[:, 3, 0] * 0.5 - 3
    )


def test_which_slices(written):
    path = written()
    whole = read_nifti(path, sliced("axial"))
    assert np.array_equal(read_nifti(path, sliced("axial", start=0.2, stop=0.8, every=2)), whole[[1, 3]])
    assert np.array_equal(read_nifti(path, sliced("axial", start=0.99)), whole[[4]])


@pytest.mark.parametrize("own", [settings(), sliced("frame")])
def test_a_volume_is_no_image_unless_asked(written, own):
    with pytest.raises(DataError, match="is a volume"):
        read_nifti(written(), own)


def test_what_would_be_read_wrongly_is_refused(written):
    rgb = np.zeros((2, 2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    unknown = nibabel.Nifti1Image(VALUES, None)
    for values, word in (
        (np.zeros((2, 2, 2, 3), np.int16), "axes"),
        (rgb, "plain numbers"),
        (np.zeros((2, 2, 2), np.complex64), "plain"),
    ):
        with pytest.raises(DataError, match=word):
            read_nifti(written(values), sliced("axial"))
    path = written()
    nibabel.save(unknown, path)
    with pytest.raises(DataError, match="no orientation"):
        read_nifti(path, sliced("axial"))
    assert read_nifti(written(VALUES[..., None]), sliced("axial")).shape == (5, 4, 3)


def test_damage_at_any_place_ends_in_one_line(written):
    for name in ("a.nii", "a.nii.gz"):
        path = written(name=name)
        whole = path.read_bytes()
        for cut in [0, 3, *np.random.default_rng(0).integers(4, len(whole) - 1, 8).tolist()]:
            path.write_bytes(whole[:cut])
            with pytest.raises(DataError, match=name) as error:
                read_nifti(path, sliced("axial"))
            assert "\n" not in str(error.value)


def test_a_small_file_that_unpacks_to_a_large_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("fedtl.data.nifti.MAX_BYTES", 1 << 20)
    monkeypatch.setattr(bounded, "MAX_BYTES", 1 << 20)
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(bytes(1 << 22)))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(DataError, match="at most"):
        read_nifti(path, sliced("axial"))
    header = nibabel.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000))
    (tmp_path / "b.nii").write_bytes(header.binaryblock + bytes(100))
    with pytest.raises(DataError, match=r"b\.nii"):
        read_nifti(tmp_path / "b.nii", sliced("axial"))


def test_the_slices_of_a_file_have_its_label_and_stay_together(written, tmp_path):
    for kind in "ab":
        for number in range(2):
            written(VALUES[:, :, : 4 + number], name=f"s/{kind}/{number}.nii.gz")
    raw = read(settings(path=str(tmp_path), slices={"axis": "axial"}), "s")
    assert raw.train.x.shape == (18, 4, 3)
    assert raw.train.y.tolist() == ["a"] * 9 + ["b"] * 9
    assert len(set(raw.train.units.tolist())) == 4
    with pytest.raises(DataError, match="5 x 4 x 3 px"):
        read(settings(path=str(tmp_path), kind="volumes"), "s")
    volumes = read(settings(path=str(tmp_path), kind="volumes", size=4), "s")
    assert volumes.train.x.shape == (4, 4, 4, 4)
    assert volumes.train.units is None


def test_a_picture_is_no_volume(written, tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match="is a picture"):
        load_images([tmp_path / "a.png"], settings(kind="volumes"))


def test_the_spacing_of_voxels_in_the_order_of_the_axes(written):
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = 5, -2, 3, 1  # stored: up, left, forward
    paths = [written(affine=affine), written(affine=affine, name="b.nii.gz")]
    assert spacings_of(paths, settings(kind="volumes")) == {(5.0, 3.0, 2.0): 2}
    assert spacings_of(paths, sliced("coronal")) == {(5.0, 2.0): 2}
    assert spacings_of(paths, sliced("coronal", by_record=True)) == {}
