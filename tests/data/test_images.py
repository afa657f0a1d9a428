"""Image files in folders: classes, parts, sizes, colours, depths."""

import numpy as np
import pytest
from PIL import Image

from fedtl.data.images import load_images, read, silos
from fedtl.data.settings import DataSettings
from fedtl.errors import DataError

GREY, RED = np.full((8, 6), 200, np.uint8), np.full((8, 6, 3), (250, 0, 0), np.uint8)


def settings(path, **more):
    return DataSettings(source="images", path=str(path), **more)


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
    (tmp_path / ".hidden").mkdir()
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
    assert (load_images([path], 3, "native") == 200).all()
    assert (load_images([path], 16, "native") == 200).all()


def test_grey_and_colour_as_asked(tmp_path):
    paths = [save(GREY, tmp_path, "grey.png"), save(RED, tmp_path, "red.png")]
    assert (
        load_images(paths, "native", 3).shape == load_images(paths, "native", "native").shape == (2, 8, 6, 3)
    )
    grey = load_images(paths, "native", 1)
    assert grey.shape == (2, 8, 6)
    assert (grey[0] == 200).all()
    assert np.abs(grey[1] - 0.299 * 250).max() <= 1
    assert load_images(paths[:1], "native", "native").shape == (1, 8, 6)


def test_grey_with_alpha_and_one_bit_are_grey(tmp_path):
    alpha, bit = tmp_path / "alpha.png", tmp_path / "bit.png"
    Image.new("LA", (6, 8), (90, 255)).save(alpha)
    Image.new("1", (6, 8), 1).save(bit)
    assert load_images([alpha, bit], "native", "native")[:, 0, 0].tolist() == [90, 255]


def test_of_sixteen_bits_the_upper_eight_are_kept(tmp_path):
    path = save(np.array([[0, 256, 30000, 65535]], np.uint16), tmp_path, "deep.png")
    assert load_images([path], "native", "native").tolist() == [[[0, 1, 117, 255]]]


def test_pixels_without_a_range_are_refused(tmp_path):
    path = save(np.ones((2, 2), np.float32), tmp_path, "float.tif")
    with pytest.raises(DataError, match=r"float\.tif"):
        load_images([path], "native", "native")


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
    assert np.abs(load_images([path], "native", 1)[0].astype(int) - picture).max() < 30


def test_a_class_without_a_readable_file_is_refused(tmp_path):
    two_classes(tmp_path / "a")
    (tmp_path / "a" / "none").mkdir()
    for number in range(3):
        (tmp_path / "a" / "none" / f"{number}.dcm").touch()
    save(GREY, tmp_path, "a", "none", "patient", "0.png")
    with pytest.raises(DataError, match="none of its 4 files") as error:
        read(settings(tmp_path), "a")
    assert "3 .dcm, 1 .png in folders below" in str(error.value)
    assert len(read(settings(tmp_path, by_record=True), "a").train.y) == 4


def test_what_is_not_read_is_counted(tmp_path):
    two_classes(tmp_path / "a" / "train")
    two_classes(tmp_path / "a" / "test")
    assert read(settings(tmp_path), "a").unread == ()
    for name in ("notes.txt", "scan.dcm", ".DS_Store", "Thumbs.db"):
        (tmp_path / "a" / "train" / "cat" / name).touch()
    save(GREY, tmp_path, "a", "train", "9.png")
    save(GREY, tmp_path, "a", "more", "cat", "9.png")
    (tmp_path / "a" / "test" / "bird").mkdir()
    unread = "; ".join(read(settings(tmp_path), "a").unread)
    for part in ("2 files of train/cat", "1 .dcm, 1 .txt", "1 images of train", "test/bird", "more beside"):
        assert part in unread


def test_gif_and_palettes_are_read_and_several_pages_refused(tmp_path):
    picture = Image.fromarray(RED).quantize(4)
    picture.save(tmp_path / "a.gif")
    assert (load_images([tmp_path / "a.gif"], "native", "native")[0, 0, 0] == (250, 0, 0)).all()
    for suffix in ("tif", "gif", "png"):
        path = tmp_path / f"b.{suffix}"
        Image.fromarray(GREY).save(path, save_all=True, append_images=[Image.fromarray(GREY // 2)])
        with pytest.raises(DataError, match="holds 2 images"):
            load_images([path], "native", "native")
