"""The masks that a model of a segmentation predicts, as picture files for other programs."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from torch import Tensor

from fedtl.data.pictures import write_mask
from fedtl.errors import ConfigError
from fedtl.experiment.predict import SiloModel, check_new_folder


def write_masks(model: SiloModel, scores: Tensor, files: Sequence[str], out: Path) -> int:
    """
    Write a PNG for each row, of the size in which the model sees images, with the numbers of ``data.mask_values``. ``files``: the
    images, by which the masks are named; (): by the row. Returns how many were written. Raises ConfigError for other tasks and a folder
    that is not empty.
    """
    if not model.task.per_pixel:
        raise ConfigError(f'--masks: the model predicts no masks; its data.task is "{model.task.name}"')
    check_new_folder(out)
    values = np.array(model.experiment.data.mask_values or range(scores.shape[1]), np.uint16)
    names = [PurePosixPath(name).with_suffix(".png") for name in files] or [
        PurePosixPath(f"{number}.png") for number in range(len(scores))
    ]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"--masks: {len(names)} images have {len(set(names))} different names without suffix; rename them"
        )
    for name, one in zip(names, scores, strict=True):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        write_mask(values[one.argmax(0).numpy()], out / name)
    return len(names)
