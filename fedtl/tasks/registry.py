"""The table of tasks, by the name in ``data.task``."""

from collections.abc import Mapping

from torch import Tensor

from fedtl.tasks.base import LearningTask
from fedtl.tasks.classification import CLASSIFICATION, Classification
from fedtl.tasks.counts import Counts
from fedtl.tasks.cox import Cox
from fedtl.tasks.multilabel import MultiLabel
from fedtl.tasks.ordinal import Ordinal
from fedtl.tasks.regression import REGRESSION, Regression
from fedtl.tasks.segmentation import Segmentation
from fedtl.tasks.survival import Survival

_ALL: tuple[type[LearningTask], ...] = (
    *(Classification, MultiLabel, Ordinal),
    *(Regression, Counts),
    *(Survival, Cox),
    Segmentation,
)
TASKS: Mapping[str, type[LearningTask]] = {task.name: task for task in _ALL}


def plain_task(y: Tensor) -> LearningTask:
    """Return classification for class numbers, and regression for values: of these two, the type of labels says which."""
    return REGRESSION if y.is_floating_point() else CLASSIFICATION
