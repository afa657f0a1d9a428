"""
What a model predicts, as one value: which labels a row can have, how many outputs the head has, the loss, the metrics, how the
answers of several models are mixed, the constant answer that a model must beat, and what a prediction says.

``scores`` are a model's raw outputs [N, width]. ``y`` are labels as ``encoded`` gives them: class numbers [N] (int64), or
numbers [N] or [N, K] (float), NaN where a row has none. Of a task by pixel both have two further axes: scores [N, width, H, W], and
masks [N, H, W] of class numbers.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedtl._util.labels import NO_LABEL
from fedtl.tasks.metrics import figure
from fedtl.tasks.row_metrics import Answers, Figure

Values = NDArray[np.float64]


class TaskSettings(Protocol):
    """The keys of ``[data]`` that a task is made of."""

    @property
    def label(self) -> str: ...

    @property
    def classes(self) -> Sequence[str]: ...

    @property
    def event(self) -> str: ...

    @property
    def horizons(self) -> Sequence[float]: ...

    @property
    def mask_values(self) -> Sequence[int]: ...

    @property
    def mask_void(self) -> int | None: ...

    @property
    def dice_loss(self) -> float: ...

    @property
    def focal(self) -> float: ...

    @property
    def class_weights(self) -> str | Mapping[str, float]: ...


class LearningTask(ABC):
    """
    ``about``: its line in the table of tasks. ``metrics``: those of every result and comparison, in the order in which they are
    shown. ``further``: metrics of every result, and of a comparison where ``compare.metric`` names one. ``main``: the metric that
    decides which method is best, unless ``compare.metric`` names another. ``curve``: the metric of each round, besides the loss.
    ``constant``: the constant answer, in words. ``needs``: what labels have to be, in words. ``own_figures``: how the task computes
    those metrics that it computes differently from other tasks. ``script``: a part of the code of an exported predict.py. It defines
    ``HEADS`` (the titles of columns), ``averaged``, and ``answer`` (to a row of averages), and may read ``ABOUT["outputs"]``.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]
    further: ClassVar[tuple[str, ...]] = ()
    main: ClassVar[str]
    curve: ClassVar[str] = "loss"
    constant: ClassVar[str]
    script: ClassVar[str]
    own_figures: ClassVar[Mapping[str, Figure]] = {}
    needs: ClassVar[str]
    has_classes: ClassVar[bool] = False  # labels are names of classes, and not numbers
    exclusive: ClassVar[bool] = (
        False  # scores before a softmax over classes: what every method and attack can work with
    )
    standardised: ClassVar[bool] = False  # each silo trains on its labels in a scale of its own
    relative: ClassVar[bool] = (
        False  # scores are logarithms, and each silo trains on its labels divided by their mean
    )
    exact_labels: ClassVar[bool] = False  # labels are compared, so they stay float64
    least_squares: ClassVar[bool] = False  # a ridge regression of the labels gives a head
    per_example: ClassVar[bool] = True  # the loss of a row depends on no other row
    per_pixel: ClassVar[bool] = False  # a label is a mask [H, W], and scores are [N, width, H, W]

    @classmethod
    def of(cls, settings: TaskSettings) -> "LearningTask":
        """Return the task with these settings."""
        return cls()

    @property
    def everywhere(self) -> bool:
        """Whether every method, attack and command knows the task: classification and regression."""
        return self.least_squares

    def columns(self, settings: TaskSettings) -> tuple[str, ...]:
        """Return the columns of a table that hold the label."""
        return (settings.label,)

    def label_shape(self, settings: TaskSettings) -> tuple[int, ...]:
        """Return the shape of one row's label in an array: (), or (K,) where it has K numbers."""
        return ()

    def at_silo(self, classes: Sequence[str], y: Tensor) -> "LearningTask":
        """Return the task at a silo with these classes and labels of training rows."""
        return self

    def chosen(self, scores: Values) -> Values:
        """Return the number of the predicted class of each row [N]."""
        return np.asarray(scores.argmax(1))

    def outputs(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Return what the answer to a row consists of, by name. ``classes``: the silo's labels, where they are exclusive."""
        return ()

    def width(self, classes: Sequence[str]) -> int:
        """Return the number of outputs of the head; at least 1."""
        return 1

    def valid(self, y: Values) -> NDArray[np.bool_]:
        """Return for each row whether its numbers [N] or [N, K] are a label [N]."""
        finite = np.isfinite(y)
        return np.asarray(finite if y.ndim == 1 else finite.all(1))

    def odd(self, y: Values) -> object:
        """Return, for a message, what the first of these rows holds in the place of a label; none of them has one."""
        return y.tolist()[0]

    def encoded(self, y: Values) -> Tensor:
        """Return the labels of rows whose labels are numbers; NaN where they are none."""
        usable = self.valid(y)
        return torch.from_numpy(np.where(usable if y.ndim == 1 else usable[:, None], y, np.nan))

    @abstractmethod
    def losses(self, scores: Tensor, y: Tensor) -> Tensor:
        """Return the loss of each row [N], from which metrics are computed. For rows without a label it is any finite number."""

    def training_losses(self, scores: Tensor, y: Tensor) -> Tensor:
        """Return what training minimises, for each row [N]."""
        return self.losses(scores, y)

    @abstractmethod
    def averaged(self, scores: Tensor) -> Tensor:
        """Return what is averaged over several models [N, ...]: probabilities, or values."""

    def scores_of(self, average: Tensor) -> Tensor:
        """Return the scores [N, width] of averages: the inverse of ``averaged``. By default scores are logarithms."""
        return average.clamp_min(torch.finfo(average.dtype).tiny).log()

    def mixed(self, parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """Return the scores [N, width] of a mix of several models. ``weights``: none is 0, and they sum to 1."""
        means = [self.averaged(part.double()) * weight for part, weight in zip(parts, weights, strict=True)]
        return self.scores_of(torch.stack(means).sum(0)).float()

    @abstractmethod
    def constant_scores(self, y: Tensor, width: int) -> Tensor:
        """Return the one answer [width] to every row, from the labels of training rows alone."""

    def repeated(self, answer: Tensor, y: Tensor) -> Tensor:
        """Return the scores [N, ...] of the one ``answer`` [width] to every row of ``y``."""
        return answer.expand(len(y), -1)

    def quick(self, scores: Tensor, y: Tensor) -> dict[str, float]:
        """Return the metrics of each round, computed in torch alone. All rows have a label, and all scores are finite."""
        return {"loss": float(self.losses(scores, y).mean())}

    def figures(self, scores: Tensor, y: Tensor) -> dict[str, float]:
        """Return every metric that is defined for these rows. All have a label, and all scores are finite."""
        return self.weighted_figures(scores, y, self.measured)

    def weighted_figures(self, scores: Tensor, y: Tensor, metrics: Sequence[str]) -> dict[str, float]:
        """Return those of the metrics that are defined, as a comparison computes them, with equal weights."""
        answers = Answers(scores.double().numpy(), y.numpy(), np.arange(len(y)), task=self)
        one = np.ones((1, len(y)))
        values = {name: float(figure(name, answers, one)[0]) for name in metrics}
        return {name: value for name, value in values.items() if not np.isnan(value)}

    @property
    def measured(self) -> tuple[str, ...]:
        """Every metric of a result."""
        return (*self.metrics, *self.further)

    def why_undefined(self, metric: str, scores: Tensor, y: Tensor) -> str:
        """Return why a metric is not defined for these rows."""
        return "there is only one row" if len(y) == 1 else f"the labels of all {len(y)} rows are the same"

    @abstractmethod
    def answers(self, scores: Tensor, classes: Sequence[str]) -> list[Mapping[str, str | float]]:
        """Return what a prediction says of each row, by name; "prediction" comes first."""

    def synthetic(self, count: int, classes: Sequence[str], generator: torch.Generator) -> Tensor:
        """Return the labels of ``count`` synthetic rows, of which none depends on data."""
        return torch.randn(count, generator=generator)


def known_numbers(y: Tensor) -> Tensor:
    """Return class numbers, with 0 in the place of NO_LABEL."""
    return y.where(y != NO_LABEL, 0)
