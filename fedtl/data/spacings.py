"""How large pixels and voxels are, as files of DICOM and NIfTI say. Images are read as pixels, whatever this is."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedtl.data import dicom, nifti
from fedtl.data.settings import DataSettings

DIGITS = 3  # that are kept: spacings of 0.4882 and 0.4883 mm are one


def spacings_of(paths: Sequence[Path], settings: DataSettings) -> Mapping[tuple[float, ...], int]:
    """
    Return how many files state which distance of neighbouring pixels in mm: (height, width), of volumes of NIfTI (depth, height,
    width). Files that state none are not counted; none is looked at where no row must decide about others.
    """
    if settings.by_record:
        return {}
    stated = Counter[tuple[float, ...]]()
    for path in paths:
        if nifti.is_nifti(path):
            own = nifti.spacing(path, settings)
        elif path.suffix.lower() in dicom.SUFFIXES or not path.suffix:
            own = dicom.spacing(path)
        else:
            continue
        if own and all(side > 0 for side in own):
            stated[tuple(float(f"{side:.{DIGITS}g}") for side in own)] += 1
    return dict(stated)
