"""
Reads the pixels of DICOM files with pydicom. Only the elements in ``ELEMENTS`` are parsed: none of them describes the patient.

Values are those of the modality, slope times stored value plus intercept (PS3.3 C.11.1), such as Hounsfield units.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from fedtl.data.bounded import check_bytes, check_file_size
from fedtl.data.colours import array_in_srgb
from fedtl.data.settings import WINDOW, DataSettings
from fedtl.data.slices import FRAME, chosen
from fedtl.data.source import Array
from fedtl.errors import DataError, first_line

SUFFIXES = {".dcm", ".dicom"}
MAGIC = b"DICM"  # after a preamble of 128 bytes
ELEMENTS = [
    *(
        "Rows",
        "Columns",
        "NumberOfFrames",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "PlanarConfiguration",
        "ICCProfile",
    ),
    *("PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "ModalityLUTSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("PixelData", "FloatPixelData", "DoubleFloatPixelData"),
]
# Those that pydicom decodes itself or with Pillow. Deflated files are not read: they are inflated whole, whatever they hold.
TRANSFER_SYNTAXES = {
    "1.2.840.10008.1.2": "Implicit VR Little Endian",
    "1.2.840.10008.1.2.1": "Explicit VR Little Endian",
    "1.2.840.10008.1.2.2": "Explicit VR Big Endian",
    "1.2.840.10008.1.2.5": "RLE Lossless",
    "1.2.840.10008.1.2.4.50": "JPEG Baseline",
}
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422")


def is_dicom(path: Path) -> bool:
    """Return whether a file without a suffix is DICOM, by its first bytes."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == MAGIC
    except OSError:
        return False


def read_dicom(path: Path, settings: DataSettings) -> Array:
    """
    Return the rows of a file: [1, H, W] of float32 in the unit of the modality, or [1, H, W, 3] of uint8; with ``data.slices`` of
    axis "frame" the chosen frames, and with ``data.kind = "volumes"`` all of them as one row [1, F, H, W]. With
    ``data.pixel_range = "window"`` values are 0..1 in the file's window. Raises DataError.
    """
    check_file_size(path)
    try:
        import pydicom
    except ImportError as error:
        raise DataError(f"{path}: DICOM needs pydicom: pip install 'fedtl[dicom]'") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they may quote what a file holds
            _check_syntax(path, pydicom)
            file = pydicom.dcmread(path, specific_tags=ELEMENTS)
            _check_file(path, file)
            planes = np.asarray(file.pixel_array)
            return _rows(path, file, planes, settings)
    except DataError:
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are elements
        raise DataError(f"{path} cannot be read as DICOM: {first_line(error)}") from error


def spacing(path: Path) -> tuple[float, ...] | None:
    """Return the distance in mm of neighbouring pixels (downwards, across) that a file states; None where it states none that can be read."""
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = pydicom.dcmread(path, specific_tags=["PixelSpacing"], stop_before_pixels=True)
        down, across = map(float, file.PixelSpacing)
    except Exception:  # the image itself has been read
        return None
    return down, across


def _check_syntax(path: Path, pydicom: Any) -> None:
    uid = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID")
    if str(uid) not in TRANSFER_SYNTAXES:
        name = getattr(uid, "name", uid)
        raise DataError(
            f"{path} is written as {name}; fedtl reads {', '.join(TRANSFER_SYNTAXES.values())}: convert it, for example with gdcmconv --raw"
        )


def _check_file(path: Path, file: Any) -> None:
    """Raise DataError for what is not read, and for more bytes than a file may hold, before pixels are decoded."""
    for element in (
        *("FloatPixelData", "DoubleFloatPixelData", "ModalityLUTSequence"),
        *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    ):
        if element in file:
            raise DataError(
                f"{path} has {element}, which fedtl does not read; convert the file, for example to NIfTI with dcm2niix"
            )
    if "PixelData" not in file:
        raise DataError(f"{path} holds no image; move it away")
    kind, samples = str(file.PhotometricInterpretation), int(file.get("SamplesPerPixel", 1))
    if (kind not in GREY or samples != 1) and (
        kind not in COLOURS or samples != 3 or int(file.BitsAllocated) != 8
    ):
        raise DataError(
            f"{path} has pixels of the kind {kind} with {samples} samples; fedtl reads {', '.join((*GREY, *COLOURS))} of 8 bits: convert it"
        )
    frames = max(1, int(file.get("NumberOfFrames", 1) or 1))
    numbers = int(file.Rows) * int(file.Columns) * samples * frames
    check_bytes(path, max(numbers * int(file.BitsAllocated) / 8, numbers * 4.0))


def _rows(path: Path, file: Any, planes: Array, settings: DataSettings) -> Array:
    colours = str(file.PhotometricInterpretation) in COLOURS
    planes = planes if planes.ndim == (4 if colours else 3) else planes[None]
    if colours:
        if settings.kind == "volumes":
            raise DataError(f"{path} has colours; a volume has one channel")
        values, profile = planes.astype(np.uint8), file.get("ICCProfile")
        if profile:
            values = np.stack([array_in_srgb(plane, bytes(profile), path) for plane in values])
    else:
        values = _modality_values(path, file, planes, settings)
    if settings.kind == "volumes":
        if len(values) == 1:
            raise DataError(
                f"{path} holds one image, not a volume; convert the series to NIfTI, for example with dcm2niix"
            )
        return values[None]
    if len(values) == 1:
        return values
    if settings.slices is None or settings.slices.axis != FRAME:
        raise DataError(
            f'{path} holds {len(values)} frames; set data.slices.axis = "frame" to make each a row, or data.kind = "volumes"'
        )
    return chosen(values, settings.slices)


def _modality_values(path: Path, file: Any, stored: Array, settings: DataSettings) -> Array:
    """Return float32 values [F, H, W] in the unit of the modality, dark as low; in the file's window 0..1 where this is asked for."""
    bits, signed = int(file.BitsStored), bool(int(file.PixelRepresentation))
    least, most = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    slope = _number(path, file, "RescaleSlope", 1.0)
    intercept = _number(path, file, "RescaleIntercept", 0.0)
    if not slope:
        raise DataError(f"{path} has RescaleSlope = 0; correct it")
    values = _without_padding(file, stored).astype(np.float64) * slope + intercept
    low, high = sorted((least * slope + intercept, most * slope + intercept))
    if settings.pixel_range == WINDOW:
        low, high = _window(path, file)
        values, low, high = ((values - low) / (high - low)).clip(0, 1), 0.0, 1.0
    elif settings.pixel_range:
        low, high = map(float, settings.pixel_range)
    if str(file.PhotometricInterpretation) == "MONOCHROME1":  # low values are shown bright
        values = low + high - values
    return values.astype(np.float32)


def _without_padding(file: Any, stored: Array) -> Array:
    """
    Return the stored values with the darkest of the others in the place of padding, which stands where nothing was measured (PS3.3
    C.7.5.1.1.2): around a round field of view, such as -2000 where air is -1000.
    """
    first = _padding(file, "PixelPaddingValue")
    if first is None:
        return stored
    last = _padding(file, "PixelPaddingRangeLimit")
    low, high = sorted((first, first if last is None else last))
    padded = (stored >= low) & (stored <= high)
    if not padded.any() or padded.all():
        return stored
    measured = stored[~padded]
    darkest = measured.max() if str(file.PhotometricInterpretation) == "MONOCHROME1" else measured.min()
    return np.where(padded, darkest, stored)


def _padding(file: Any, element: str) -> int | None:
    """Return the stored value that an element names, None where it is absent; of a signed image it may be written without its sign."""
    value = file.get(element)
    if value is None or value == "":
        return None
    bits, signed = int(file.BitsAllocated), bool(int(file.PixelRepresentation))
    number = int.from_bytes(value[:2], "little") if isinstance(value, bytes) else int(value)
    return number - (1 << bits) if signed and number >= 1 << (bits - 1) else number


def _window(path: Path, file: Any) -> tuple[float, float]:
    """Return the values that the file's first window shows as black and white (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    function = str(file.get("VOILUTFunction") or "LINEAR").upper()
    if "WindowCenter" not in file or "WindowWidth" not in file or function not in ("LINEAR", "LINEAR_EXACT"):
        raise DataError(f"{path} states no linear window; set data.pixel_range = [low, high]")
    center, width = _number(path, file, "WindowCenter", 0.0), _number(path, file, "WindowWidth", 0.0)
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if not width > 0:
        raise DataError(f"{path} has a window of width 0; set data.pixel_range = [low, high]")
    return center - width / 2, center + width / 2


def _number(path: Path, file: Any, element: str, absent: float) -> float:
    """Return the first value of an element. Raises DataError where it is not finite."""
    value = file.get(element)
    if value is None or value == "":
        return absent
    number = float(
        value
        if isinstance(value, str | int | float)
        else next(iter(value), absent)
        if np.iterable(value)
        else value
    )
    if not np.isfinite(number):
        raise DataError(f"{path} has {element} = {number}; correct it")
    return number
