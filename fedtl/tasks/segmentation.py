"""Segmentation: a class for each pixel of an image, such as a lesion and what surrounds it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedtl._util.labels import NO_LABEL
from fedtl.tasks.base import LearningTask, TaskSettings, Values, known_numbers

SMOOTHING = 1.0  # pixels that are added to both sides of the Dice loss, which is then defined without any


@dataclass(frozen=True)
class Segmentation(LearningTask):
    """
    Scores [N, classes, H, W] before a softmax over the classes of each pixel; labels are masks [N, H, W] of class numbers, NO_LABEL
    where a pixel's class is not known. The loss of an image is the mean cross-entropy of its pixels. Training minimises
    (1 - ``dice``) of it plus ``dice`` times the Dice loss (Milletari, Navab and Ahmadi, 2016): 1 minus the mean over the classes but
    the first of (2 sum p g + 1) / (sum p + sum g + 1), with the probability p and the mask g of a class over the pixels of one image.
    Models are mixed by the mean of their probabilities. ``labels``: the classes, the background first; ``values``: what a mask holds
    for each, (): 0, 1, ...; ``void``: what it holds where the class is not known.
    """

    labels: tuple[str, ...]
    values: tuple[int, ...] = ()
    void: int | None = None
    dice: float = 0.0

    name = "segmentation"
    about = "a class for each pixel, in masks with the classes data.classes; cross-entropy and Dice"
    metrics = ("dice", "pixel_accuracy", "loss")
    main = "dice"
    curve = "dice"
    constant = "the share of each class"
    per_pixel = True
    script = """\
import atexit
HEADS, MASKS = [f"share({label})" for label in ABOUT["outputs"]], []
if len(sys.argv) > 2:  # python predict.py INPUT MASKS.npy
    atexit.register(lambda: np.save(sys.argv[2], np.stack(MASKS)))

def averaged(out):
    return out.softmax(1)

def answer(row):
    MASKS.append(np.argmax(row, 0).astype(np.uint8))
    shares = [float((MASKS[-1] == number).mean()) for number in range(len(HEADS))]
    return [";".join(label for label, share in list(zip(ABOUT["outputs"], shares))[1:] if share), *shares]
"""

    @classmethod
    def of(cls, settings: TaskSettings) -> "Segmentation":
        return cls(
            tuple(settings.classes), tuple(settings.mask_values), settings.mask_void, settings.dice_loss
        )

    @property
    def needs(self) -> str:  # type: ignore[override]
        numbers = ", ".join(map(str, self._values()))
        void = "" if self.void is None else f", or {self.void} where none is known"
        return f"one of {numbers} for each pixel{void} (data.mask_values)"

    def _values(self) -> tuple[int, ...]:
        return self.values or tuple(range(len(self.labels)))

    def outputs(self, classes: Sequence[str]) -> tuple[str, ...]:
        return self.labels

    def width(self, classes: Sequence[str]) -> int:
        return max(len(self.labels), 1)

    def valid(self, y: Values) -> NDArray[np.bool_]:
        return np.asarray(self._usable(y).reshape(len(y), -1).all(1))

    def odd(self, y: Values) -> float:
        return float(y[~self._usable(y)][0])

    def _usable(self, y: Values) -> NDArray[np.bool_]:
        return np.isin(y, [*self._values(), *([] if self.void is None else [self.void])])

    def encoded(self, y: Values) -> Tensor:
        """Return class numbers (int16) [N, H, W]; NO_LABEL for other values."""
        numbers = np.full(y.shape, NO_LABEL, np.int16)
        for number, value in enumerate(self._values()):
            numbers[y == value] = number
        return torch.from_numpy(numbers)

    def losses(self, scores: Tensor, y: Tensor) -> Tensor:
        return _cross_entropy(scores.log_softmax(1), y)

    def training_losses(self, scores: Tensor, y: Tensor) -> Tensor:
        logs = scores.log_softmax(1)
        losses = _cross_entropy(logs, y)
        if not self.dice:
            return losses
        return (1 - self.dice) * losses + self.dice * _dice_loss(logs.exp(), y)

    def averaged(self, scores: Tensor) -> Tensor:
        return scores.softmax(1)

    def constant_scores(self, y: Tensor, width: int) -> Tensor:
        """Return the logarithm of (n_c + 1) / (n + C) for class c of C, over all pixels."""
        counts = torch.bincount(y[y != NO_LABEL].long(), minlength=width) + 1.0
        return (counts / counts.sum()).log()

    def repeated(self, answer: Tensor, y: Tensor) -> Tensor:
        return answer[:, None, None].expand(len(y), -1, *y.shape[1:])

    def quick(self, scores: Tensor, y: Tensor) -> dict[str, float]:
        return self.weighted_figures(scores, y, ("dice", "loss"))

    def why_undefined(self, metric: str, scores: Tensor, y: Tensor) -> str:
        return f"no pixel of the {len(y)} images is, or is predicted to be, {' or '.join(self.labels[1:])}"

    def answers(self, scores: Tensor, classes: Sequence[str]) -> list[Mapping[str, str | float]]:
        """Return each class's share of the pixels. The prediction lists the classes that occur, without the first."""
        chosen = scores.argmax(1).flatten(1)
        shares = torch.stack([(chosen == number).double().mean(1) for number in range(len(self.labels))], 1)
        names = [f"share({label})" for label in self.labels]
        return [
            {
                "prediction": ";".join(
                    one for one, share in zip(self.labels[1:], own[1:], strict=True) if share
                ),
                **dict(zip(names, own, strict=True)),
            }
            for own in shares.tolist()
        ]

    def synthetic(self, count: int, classes: Sequence[str], generator: torch.Generator) -> Tensor:
        """Return the classes of ``count`` pixels."""
        return torch.randint(len(self.labels), (count,), generator=generator).to(torch.int16)


def _cross_entropy(logs: Tensor, y: Tensor) -> Tensor:
    """Return the mean over the pixels of each image whose class is known [N]; 0 where none is. ``logs``: log-probabilities."""
    known = y != NO_LABEL
    each = -logs.gather(1, known_numbers(y).long()[:, None])[:, 0]
    return torch.where(known, each, 0.0).flatten(1).sum(1) / known.flatten(1).sum(1).clamp_min(1)


def _dice_loss(p: Tensor, y: Tensor) -> Tensor:
    """Return the Dice loss of each image [N], over the pixels whose class is known. ``p``: probabilities."""
    known = (y != NO_LABEL)[:, None]
    masks = torch.stack([y == number for number in range(1, p.shape[1])], 1).to(p)
    p = torch.where(known, p[:, 1:], 0.0)
    both, either = (p * masks).flatten(2).sum(2), (p + masks).flatten(2).sum(2)
    return 1 - ((2 * both + SMOOTHING) / (either + SMOOTHING)).mean(1)
