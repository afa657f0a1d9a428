"""DICOM files that pydicom writes: values of the modality, windows, photometric interpretations, transfer syntaxes, damage."""

import io

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_windowing
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from fedtl.data import bounded
from fedtl.data.colours import array_in_srgb
from fedtl.data.dicom import read_dicom
from fedtl.data.image_files import is_image, load_images
from fedtl.data.images import read
from fedtl.data.preprocess import fit_inputs
from fedtl.data.settings import DataSettings
from fedtl.errors import DataError
from fedtl.experiment import image_notes
from tests.data.test_colours import ADOBE, profile

STORED = np.array([[0, 100, 1024], [2000, 3000, 4095]], np.uint16)
PATIENT = "Secret^Patient"


def settings(**more):
    return DataSettings(source="images", **more)


def dataset(stored=STORED, syntax=ExplicitVRLittleEndian, bits=12, **elements):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = syntax, CTImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    file = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = CTImageStorage, "1.2.3"
    file.PatientName, file.PatientID, file.PatientBirthDate = PATIENT, "ID-77", "19700101"
    colours = stored.ndim > 2 and stored.shape[-1] == 3
    file.Rows, file.Columns = stored.shape[-3:-1] if colours else stored.shape[-2:]
    file.SamplesPerPixel, file.PhotometricInterpretation = (3, "RGB") if colours else (1, "MONOCHROME2")
    if colours:
        file.PlanarConfiguration = 0
    file.BitsAllocated = stored.dtype.itemsize * 8
    file.BitsStored = file.BitsAllocated if file.BitsAllocated == 8 else bits
    file.HighBit, file.PixelRepresentation = file.BitsStored - 1, int(stored.dtype.kind == "i")
    if stored.ndim == 3 and not colours:
        file.NumberOfFrames = len(stored)
    file.PixelData = stored.tobytes()
    for name, value in elements.items():
        setattr(file, name, value)
    return file


@pytest.fixture
def written(tmp_path):
    def write(*args, name="a.dcm", **elements):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset(*args, **elements).save_as(path, enforce_file_format=True)
        return path

    return write


CT = {"RescaleSlope": 2.0, "RescaleIntercept": -1024.0}


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_values_of_the_modality(written, syntax):
    x = read_dicom(written(STORED, syntax, **CT), settings())
    assert x.dtype == np.float32
    assert np.array_equal(x[0], STORED * 2.0 - 1024)
    signed = (STORED.astype(np.int16) - 2000).astype(np.int16)
    assert np.array_equal(read_dicom(written(signed, bits=16), settings())[0], signed)


def test_bits_above_those_of_a_pixel_are_no_part_of_it(written):
    """Old files keep drawings there."""
    assert np.array_equal(read_dicom(written(STORED | 0xA000), settings())[0], STORED)


def test_run_lengths_are_decoded(written, tmp_path):
    file = pydicom.dcmread(written(**CT))
    file.compress(RLELossless)
    file.save_as(tmp_path / "rle.dcm")
    assert np.array_equal(read_dicom(tmp_path / "rle.dcm", settings())[0], STORED * 2.0 - 1024)


def test_jpeg_baseline_is_what_pillow_decodes(written):
    grey = np.linspace(0, 255, 64).reshape(8, 8).astype(np.uint8)
    jpeg = io.BytesIO()
    Image.fromarray(grey).save(jpeg, "jpeg", quality=95)
    path = written(grey, JPEGBaseline8Bit, PixelData=encapsulate([jpeg.getvalue()]))
    assert np.array_equal(read_dicom(path, settings())[0], np.asarray(Image.open(jpeg)))


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, DeflatedExplicitVRLittleEndian])
def test_other_transfer_syntaxes_are_refused_with_the_list(written, syntax):
    data = encapsulate([b"\0\0"]) if syntax is JPEG2000Lossless else STORED.tobytes()
    with pytest.raises(DataError, match="gdcmconv") as error:
        read_dicom(written(STORED, syntax, PixelData=data), settings())
    assert syntax.name in str(error.value)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT"])
def test_the_files_window_is_pydicoms(written, function):
    path = written(**CT, WindowCenter=[40, 300], WindowWidth=[3500, 9], VOILUTFunction=function)
    file = pydicom.dcmread(path)
    expected = apply_windowing(STORED * 2.0 - 1024, file, index=0)  # over the range of the stored bits
    low, high = -1024.0, 4095 * 2.0 - 1024
    seen = read_dicom(path, settings(pixel_range="window"))[0]
    assert np.allclose(seen, (expected - low) / (high - low), atol=1e-6)
    own = settings(pixel_range="window")
    assert np.allclose(
        fit_inputs(seen[None], np.zeros(1), (), own, "a").apply(seen[None])[0, 0], seen * 2 - 1, atol=1e-6
    )


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"WindowCenter": 40, "WindowWidth": 0},
        {"WindowCenter": 40, "WindowWidth": 9, "VOILUTFunction": "SIGMOID"},
    ],
)
def test_without_a_linear_window_one_is_to_be_declared(written, elements):
    with pytest.raises(DataError, match="data.pixel_range"):
        read_dicom(written(**elements), settings(pixel_range="window"))


def test_low_values_that_are_shown_bright_are_inverted(written):
    path = written(PhotometricInterpretation="MONOCHROME1", **CT, WindowCenter=40, WindowWidth=3500)
    dark = written(
        PhotometricInterpretation="MONOCHROME2", **CT, WindowCenter=40, WindowWidth=3500, name="b.dcm"
    )
    assert np.array_equal(read_dicom(path, settings())[0], (4095.0 - STORED) * 2 - 1024)
    declared = settings(pixel_range=[-160.0, 240.0])
    assert np.array_equal(read_dicom(path, declared), 80.0 - read_dicom(dark, declared))
    window = settings(pixel_range="window")
    assert np.allclose(read_dicom(path, window), 1 - read_dicom(dark, window), atol=1e-6)


def test_colours(written):
    colours = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert np.array_equal(read_dicom(written(colours), settings())[0], colours)
    x = load_images([written(colours)], settings(channels=1)).x
    assert x.shape == (1, 2, 4)
    own = profile(b"RGB ", 2.19921875, ADOBE)
    shown = read_dicom(written(10 * colours, ICCProfile=own), settings())[0]
    assert np.array_equal(shown, array_in_srgb(10 * colours, own, ""))
    assert not np.array_equal(shown, 10 * colours)


def test_frames_are_refused_or_chosen_or_a_volume(written):
    frames = np.stack([STORED[:, :2] + number for number in range(5)]).astype(np.uint16)
    path = written(frames)
    with pytest.raises(DataError, match="5 frames"):
        read_dicom(path, settings())
    some = settings(slices={"axis": "frame", "start": 0.2, "stop": 0.9, "every": 2})
    assert np.array_equal(read_dicom(path, some), frames[[1, 3]])
    assert np.array_equal(read_dicom(path, settings(kind="volumes")), frames[None])
    with pytest.raises(DataError, match="not a volume"):
        read_dicom(written(name="one.dcm"), settings(kind="volumes"))


@pytest.mark.parametrize(
    ("elements", "word"),
    [
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR"),
        ({"SamplesPerPixel": 3}, "3 samples"),
        ({"RescaleSlope": 0}, "RescaleSlope"),
        ({"Rows": 65535, "Columns": 65535}, "at most"),
        ({"PixelData": b"\0\0"}, "cannot be read"),
        ({"ModalityLUTSequence": [pydicom.Dataset()]}, "ModalityLUTSequence"),
        ({"Rows": None}, "cannot be read"),
    ],
)
def test_what_would_be_read_wrongly_is_refused(written, elements, word):
    with pytest.raises(DataError, match=word) as error:
        read_dicom(written(**elements), settings())
    assert "a.dcm" in str(error.value)
    assert PATIENT not in str(error.value)


def test_damage_at_any_place_ends_in_one_line(written):
    path = written(**CT)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for cut in [0, 100, 131, 132, *rng.integers(132, len(whole), 20).tolist()]:
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError) as error:
            read_dicom(path, settings())
        assert "\n" not in str(error.value)


def test_no_element_about_the_patient_is_parsed(written, monkeypatch):
    seen = []
    real = pydicom.dcmread
    monkeypatch.setattr(
        pydicom, "dcmread", lambda *args, **kwargs: seen.append(real(*args, **kwargs)) or seen[-1]
    )
    read_dicom(written(), settings())
    assert "Rows" in seen[0]
    assert not [name for name in seen[0].dir() if "Patient" in name]


def test_a_large_file_is_refused_before_it_is_read(written, monkeypatch):
    path = written()
    monkeypatch.setattr(bounded, "MAX_BYTES", path.stat().st_size - 1)
    with pytest.raises(DataError, match="at most"):
        read_dicom(path, settings())


def test_folders_of_files_without_a_suffix(written, tmp_path):
    for kind in "ab":
        for number in range(2):
            written(name=f"clinic/{kind}/IM{number}", **CT)
    (tmp_path / "clinic" / "a" / "README").write_text("no image")
    raw = read(settings(path=str(tmp_path)), "clinic")
    assert raw.train.x.shape == (4, 2, 3)
    assert raw.train.y.tolist() == ["a", "a", "b", "b"]
    assert "1 without suffix" in raw.unread[0]
    assert not is_image(tmp_path / "clinic" / "a" / "README")


def test_pictures_and_numbers_in_one_silo_are_refused(written, tmp_path):
    Image.fromarray(STORED.astype(np.uint8)).save(tmp_path / "b.png")
    paths = [written(), tmp_path / "b.png"]
    with pytest.raises(DataError, match="data.pixel_range"):
        load_images(paths, settings())
    assert load_images(paths, settings(pixel_range=[0.0, 255.0])).x.shape == (2, 2, 3)


def test_pixels_that_are_not_equally_large_are_noted(written, tmp_path):
    for name, spacing in (("a/x/0.dcm", [0.5, 0.5]), ("b/x/0.dcm", [1, 2]), ("a/x/1.dcm", None)):
        written(name=name, **({"PixelSpacing": spacing} if spacing else {}))
    found = {name: tuple(read(settings(path=str(tmp_path)), name).spacings) for name in "ab"}
    assert found == {"a": ((0.5, 0.5),), "b": ((1.0, 2.0),)}
    several, oblong = image_notes._of_spacings(found, volumes=False)
    assert "(a: 0.5 x 0.5 mm; b: 1 x 2 mm)" in several
    assert "not square (b: 1 x 2 mm)" in oblong
    assert list(image_notes._of_spacings({"a": found["a"], "b": ()}, volumes=False)) == []


@pytest.mark.parametrize(
    ("elements", "darkest"),
    [
        ({}, -1000),
        ({"PhotometricInterpretation": "MONOCHROME1"}, 1200),
        ({"PixelPaddingRangeLimit": -1990}, -1000),
    ],
)
@pytest.mark.parametrize("unsigned", [False, True])
def test_padding_around_the_field_of_view_is_not_darker_than_air(
    elements, darkest, unsigned, written, tmp_path
):
    """-2000 stands where nothing was measured; some scanners write it as 63536. Without the element it is a value."""
    stored = np.array([[-2000, -1000, 40], [-2000, 0, 1200]], np.int16)
    file = dataset(stored, bits=16, **elements)
    file.add_new("PixelPaddingValue", *(("US", 63536) if unsigned else ("SS", -2000)))
    file.save_as(tmp_path / "padded.dcm", enforce_file_format=True)
    own = read_dicom(tmp_path / "padded.dcm", settings())[0]
    filled = np.where(stored == -2000, darkest, stored).astype(np.int16)
    kept = {name: value for name, value in elements.items() if not name.startswith("PixelPadding")}
    np.testing.assert_array_equal(own, read_dicom(written(filled, bits=16, **kept), settings())[0])
    assert -2000 in read_dicom(written(stored, bits=16), settings())
