"""Classification: one of several classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedtl._util.labels import NO_LABEL
from fedtl.tasks.base import LearningTask, TaskSettings, known_numbers

FLOOR = 1e-12  # of 1 - p, whose power has no finite gradient at 0


@dataclass(frozen=True)
class Classification(LearningTask):
    """
    Cross-entropy in nats; scores [N, classes] before the softmax. In training, the loss of a row of class c with probability p_c
    has the factor w_c (1 - p_c)^focal (Lin et al., 2017), with the ``weights`` w of the classes, (): all 1. ``given``: weights by
    the name of the class, 1 for others; "balanced": w_c = n / (C n_c), from the n_c training rows of the silo.
    """

    weights: tuple[float, ...] = ()
    focal: float = 0.0
    given: Literal["none", "balanced"] | tuple[tuple[str, float], ...] = "none"

    name = "classification"
    about = "one of several classes; cross-entropy"
    metrics = ("accuracy", "balanced_accuracy", "auc", "loss")
    further = ("macro_auc", "macro_f1", "ece")
    main = "accuracy"
    curve = "accuracy"
    constant = "the majority class"
    needs = "classes"
    script = """\
HEADS = [f"p({label})" for label in ABOUT["outputs"]]

def averaged(out):
    return out.softmax(1)

def answer(row):
    return [ABOUT["outputs"][row.index(max(row))], *row]
"""
    has_classes = True
    exclusive = True
    least_squares = True

    @classmethod
    def of(cls, settings: TaskSettings) -> "Classification":
        given = settings.class_weights
        if given == "none" and not settings.focal:
            return CLASSIFICATION
        if isinstance(given, Mapping):
            return cls(focal=settings.focal, given=tuple(given.items()))
        return cls(focal=settings.focal, given="balanced" if given == "balanced" else "none")

    def at_silo(self, classes: Sequence[str], y: Tensor) -> "Classification":
        if self.given == "none":
            return self
        if self.given != "balanced":
            by_name = dict(self.given)
            return replace(self, weights=tuple(by_name.get(label, 1.0) for label in classes))
        counts = torch.bincount(y[y != NO_LABEL], minlength=len(classes)).double()
        present = counts > 0
        weights = counts.sum() / (present.sum() * counts.clamp_min(1))
        return replace(self, weights=tuple(torch.where(present, weights, 1.0).tolist()))

    def training_losses(self, scores: Tensor, y: Tensor) -> Tensor:
        losses = self.losses(scores, y)
        if self.focal:
            losses = (1 - (-losses).exp()).clamp_min(FLOOR).pow(self.focal) * losses
        if self.weights:
            weights = torch.tensor(self.weights, dtype=losses.dtype).to(losses.device, non_blocking=True)
            losses = weights[known_numbers(y)] * losses
        return losses

    def outputs(self, classes: Sequence[str]) -> tuple[str, ...]:
        return tuple(classes)

    def width(self, classes: Sequence[str]) -> int:
        return len(classes) or 1

    def losses(self, scores: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(scores, y, ignore_index=NO_LABEL, reduction="none")

    def averaged(self, scores: Tensor) -> Tensor:
        return scores.softmax(1)

    def mixed(self, parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """Return the logarithms of the mean probabilities, for any scores in float64."""
        logs = [
            part.double().log_softmax(1) + torch.tensor(weight).double().log()
            for part, weight in zip(parts, weights, strict=True)
        ]
        return torch.stack(logs).logsumexp(0).float()

    def constant_scores(self, y: Tensor, width: int) -> Tensor:
        """
        Return the logarithm of (n_c + 1) / (n + C) for class c of C (Laplace's rule, so that an absent class has no infinite
        loss).
        """
        counts = torch.bincount(y, minlength=width) + 1.0
        return (counts / counts.sum()).log()

    def quick(self, scores: Tensor, y: Tensor) -> dict[str, float]:
        loss = float(F.cross_entropy(scores, y))
        return {"loss": loss, "accuracy": float(correct(scores, y).float().mean())}

    def figures(self, scores: Tensor, y: Tensor) -> dict[str, float]:
        """
        Return accuracy; balanced accuracy, the mean recall over the classes that occur, of which it needs two; AUC for models
        of two classes; cross-entropy in nats.
        """
        predicted, labels = scores.argmax(1).numpy(), y.numpy()
        present = np.unique(labels)
        values = {"accuracy": float(correct(scores, y).double().mean())}
        if len(present) > 1:
            recalls = [(predicted[labels == one] == one).mean() for one in present]
            values["balanced_accuracy"] = float(np.mean(recalls))
            if scores.shape[1] == 2:
                from sklearn import metrics  # takes a second to import

                values["auc"] = float(metrics.roc_auc_score(labels, margin(scores)))
        values |= {"loss": float(F.cross_entropy(scores.double(), y))}
        return values | self.weighted_figures(scores, y, self.further)

    def why_undefined(self, metric: str, scores: Tensor, y: Tensor) -> str:
        if metric == "auc" and scores.shape[1] != 2:
            return f"there are {scores.shape[1]} classes, and AUC needs two"
        return "there is only one row" if len(y) == 1 else f"all {len(y)} rows have the same class"

    def answers(self, scores: Tensor, classes: Sequence[str]) -> list[Mapping[str, str | float]]:
        names = [f"p({label})" for label in classes]
        return [
            {"prediction": classes[int(np.argmax(values))], **dict(zip(names, values, strict=True))}
            for values in scores.softmax(1).tolist()
        ]

    def synthetic(self, count: int, classes: Sequence[str], generator: torch.Generator) -> Tensor:
        """Return the classes in turn."""
        return torch.arange(count) % len(classes)


def margin(scores: Tensor) -> np.ndarray:
    """Return the score of the second of two classes minus that of the first [N], by which AUC ranks."""
    return (scores[:, 1].double() - scores[:, 0].double()).numpy()


def correct(scores: Tensor, y: Tensor) -> Tensor:
    """
    Return whether each row's highest score is that of its class [N]; its mean is the accuracy. A row with a score that
    is NaN or infinite is wrong: the highest would be any class. Minus infinity is the logarithm of 0.
    """
    return (scores.argmax(1) == y) & (scores < torch.inf).all(1)


CLASSIFICATION = Classification()
