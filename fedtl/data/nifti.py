"""
Reads NIfTI volumes with nibabel, turned to one orientation: axial slices from feet to head, each with the front of the body on top
and the patient's left on the left.
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from fedtl.data.bounded import MAX_BYTES, check_bytes, check_file_size
from fedtl.data.settings import DataSettings
from fedtl.data.slices import chosen
from fedtl.data.source import Array
from fedtl.errors import DataError, first_line

SUFFIXES = (".nii", ".nii.gz")
AXES = {"sagittal": 0, "coronal": 1, "axial": 2}  # of an array whose axes point right, forward and up (RAS+)
NIFTI_2_HEADER = 540  # bytes
MILLIMETRES = {"meter": 1000.0, "micron": 0.001}  # by the unit of a file


def is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def read_nifti(path: Path, settings: DataSettings) -> Array:
    """
    Return the rows of a file: with ``data.kind = "volumes"`` one volume [1, D, H, W], otherwise the images [S, H, W] that
    ``data.slices`` chooses. float32, slope and intercept applied. Voxel sizes are not looked at. Raises DataError.
    """
    if settings.kind != "volumes" and (settings.slices is None or settings.slices.axis not in AXES):
        raise DataError(
            f'{path} is a volume; set data.kind = "volumes", or data.slices.axis to "axial", "coronal" or "sagittal"'
        )
    check_file_size(path)
    try:
        import nibabel
    except ImportError as error:
        raise DataError(f"{path}: NIfTI needs nibabel: pip install 'fedtl[nifti]'") from error
    try:
        values = _right_forward_up(path, _content(path), nibabel)
    except DataError:
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are fields of its header
        reason = first_line(error)
        raise DataError(f"{path} cannot be read as NIfTI: {reason}") from error
    if settings.kind == "volumes":
        return np.ascontiguousarray(_planes(values, AXES["axial"]))[None]
    assert settings.slices is not None
    return np.ascontiguousarray(chosen(_planes(values, AXES[settings.slices.axis]), settings.slices))


def spacing(path: Path, settings: DataSettings) -> tuple[float, ...] | None:
    """Return the distance in mm of neighbouring voxels: of a volume (up, forward, right), of slices (down, across); None where none can be read."""
    import nibabel
    from nibabel.affines import voxel_sizes

    try:
        image = nibabel.load(path)
        unit = MILLIMETRES.get(image.header.get_xyzt_units()[0], 1.0)
        sides, order = voxel_sizes(image.affine), nibabel.io_orientation(image.affine)[:, 0]
        right_forward_up = [unit * float(sides[order == axis][0]) for axis in range(3)]
    except Exception:  # the volume itself has been read
        return None
    if settings.slices is not None:
        right_forward_up.pop(AXES[settings.slices.axis])
    return tuple(right_forward_up[::-1])


def _content(path: Path) -> bytes:
    """Return the bytes of a file, unpacked, at most ``MAX_BYTES``. Raises DataError."""
    opened = gzip.open if path.suffix.lower() == ".gz" else Path.open
    try:
        with opened(path, "rb") as file:
            content: bytes = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read as NIfTI: {error}") from error
    check_bytes(path, len(content))
    return content


def _right_forward_up(path: Path, content: bytes, nibabel: Any) -> Array:
    """Return the values [X, Y, Z], whose axes point to the right, the front and the head. Raises DataError."""
    is_second = NIFTI_2_HEADER in (int.from_bytes(content[:4], order) for order in ("little", "big"))
    image = (nibabel.Nifti2Image if is_second else nibabel.Nifti1Image).from_bytes(content)
    header = image.header
    shape = tuple(int(side) for side in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1:
        raise DataError(
            f"{path} has the axes {' x '.join(map(str, image.shape))}; fedtl reads volumes of three axes: save each volume in a file of its own"
        )
    check_bytes(path, math.prod(shape) * 4.0)
    if header.get_data_dtype().kind not in "uif":
        raise DataError(
            f"{path} holds {header.get_data_dtype()}, which are not plain numbers; save it as integers or floats"
        )
    if not int(header["qform_code"]) and not int(header["sform_code"]):
        raise DataError(
            f"{path} states no orientation (qform_code and sform_code are 0), so left and right are not known; write its affine"
        )
    values = image.get_fdata(dtype=np.float32, caching="unchanged").reshape(shape)
    turned = nibabel.orientations.apply_orientation(values, nibabel.io_orientation(image.affine))
    return np.asarray(turned)


def _planes(values: Array, axis: int) -> Array:
    """Return the planes [S, H, W] across an axis of [X, Y, Z]: rows from front to back or head to feet, columns upwards."""
    return np.moveaxis(values, axis, 0).swapaxes(1, 2)[:, ::-1]
