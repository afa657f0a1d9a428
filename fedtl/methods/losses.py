"""
What a silo minimises: a sum of terms.

A term is one of three kinds, and the kind decides what may be done with it:

- PerExample: one value an example. Private training clips its gradients; a membership attack reads its values.
- PerBatch: the value depends on several examples together (CORAL, MMD), so there is no per-example gradient and no
  record-level privacy.
- OnWeights: it sees weights only, so it costs no privacy. It acts after clipping and noise.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

from fedtl._util.labels import is_known
from fedtl._util.settings import Weight
from fedtl.errors import ConfigError
from fedtl.methods import pull
from fedtl.methods.sets import SHARED, Sets
from fedtl.methods.summary import Summary
from fedtl.models.net import Shape
from fedtl.models.state import State
from fedtl.tasks.base import LearningTask
from fedtl.tasks.registry import plain_task


@dataclass(frozen=True)
class Batch:
    """
    A batch of rows: ``x`` [B, ...]; ``y`` [B], class numbers (int64, -1 without a label), or numbers [B] or [B, K] (float32, or
    float64 where they are compared; NaN without a label); ``domain`` [B], 0 for a silo's labelled rows and 1 for those of its second domain, which have no label. ``rows`` [B]: their
    numbers among the rows that the batch was drawn from, -1 in the second domain; None: not known. ``task``: what is predicted;
    None: classification or regression, which the type of ``y`` says.
    """

    x: Tensor
    y: Tensor
    domain: Tensor
    rows: Tensor | None = None
    task: LearningTask = None  # type: ignore[assignment]  # never None once it is made

    def __post_init__(self) -> None:
        if self.task is None:
            object.__setattr__(self, "task", plain_task(self.y))

    @property
    def labelled(self) -> Tensor:
        return is_known(self.y)


@dataclass(frozen=True)
class Pass:
    """What one pass gave: ``features`` [B, D], ``scores`` [B, classes] or [B, 1], and ``layers``' outputs by path."""

    features: Tensor
    scores: Tensor
    layers: Mapping[str, Tensor] = field(default_factory=dict)


class Model(Protocol):
    """A net with one set of weights. ``aux``: the modules that losses added, by name."""

    @property
    def aux(self) -> Mapping[str, Callable[[Tensor], Tensor]]: ...

    def run(self, x: Tensor) -> Pass: ...

    def by(self, name: str) -> "Model":
        """Return the same net with another set of weights, in evaluation mode and without gradient."""
        ...


@dataclass(frozen=True, eq=False)
class Forward:
    """
    One pass of a model over one batch, computed when it is first needed. ``progress`` runs from 0 to 1 over the whole
    training; ``summaries``: the mean of each over all silos, as received.
    """

    batch: Batch
    model: Model
    progress: float = 0.0
    summaries: State = field(default_factory=dict)

    @cached_property
    def _pass(self) -> Pass:
        return self.model.run(self.batch.x)

    @property
    def features(self) -> Tensor:
        """Return the features [B, D]."""
        return self._pass.features

    @property
    def scores(self) -> Tensor:
        """Return the scores [B, width]: one a class, in regression one."""
        return self._pass.scores

    @property
    def layers(self) -> Mapping[str, Tensor]:
        """The outputs of the layers that the objective's terms name in ``needs_layers``, by path."""
        return self._pass.layers

    @property
    def aux(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """The modules that losses added to the model, by name."""
        return self.model.aux

    def summary(self, name: str) -> Tensor:
        """Return the mean of a summary over all silos; zeros in the first round."""
        return self.summaries[name]

    def of(self, x: Tensor) -> "Forward":
        """Return the pass over other inputs, with the same labels."""
        return replace(self, batch=replace(self.batch, x=x))

    def by(self, name: str) -> "Forward":
        """Return the pass over the same batch by another set of weights, without gradient."""
        return replace(self, model=self.model.by(name))


@dataclass(frozen=True)
class Computed:
    """A model whose pass has already been computed."""

    result: Pass
    aux: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    def run(self, x: Tensor) -> Pass:
        return self.result

    def by(self, name: str) -> "Computed":
        return self


class WithModules:
    """What every term may have: modules of its own, and summaries of all silos' rows that it compares with."""

    def modules(self, features: int, shape: Shape) -> dict[str, nn.Module]:
        """Return the modules that the term adds to the model, by name; their tensors have the role AUX. ``shape``: of one input."""
        return {}

    def summaries(self) -> tuple[Summary, ...]:
        """Return the summaries that the term needs, which silos then send (``Forward.summary``)."""
        return ()


class Loss(WithModules):
    """
    What any loss on examples may need: a second domain, outputs of layers, classes rather than values as labels.
    ``source_free``: it is defined on rows without labels alone, so that a silo without labels can train on it.
    ``follows_progress``: it uses ``Forward.progress``, so that a round depends on the number of all rounds. ``any_task``: it is defined
    whatever is predicted (``tasks``), and not only for classes and values; ``by_pixel``: also of scores [B, width, H, W]. ``drawn_by_batch``:
    what it draws at random for a row depends on the rows that are drawn with it.
    """

    needs_target = False
    needs_classes = False
    source_free = False
    follows_progress = False
    any_task = False
    by_pixel = False
    drawn_by_batch = False
    needs_layers: tuple[str, ...] = ()  # paths in the net, such as "body.features.0"


class PerExample(Loss, ABC):
    """A loss that each example has by itself."""

    @abstractmethod
    def losses(self, out: Forward) -> Tensor:
        """Return the losses [B]; those that ``counts`` excludes are ignored."""

    def counts(self, out: Forward) -> Tensor:
        """
        Return which examples the term is about [B]. Here all, also those without a label (``y`` is -1 or NaN), for which
        ``losses`` must not fail; a term that reads ``y`` returns ``out.batch.labelled``.
        """
        return out.batch.domain >= 0


def mean_loss(term: PerExample, out: Forward) -> Tensor:
    """Return a term's mean over the examples that it is about; 0 where there are none."""
    counts = term.counts(out)
    return torch.where(counts, term.losses(out), 0.0).sum() / counts.sum().clamp_min(1)


class PerBatch(Loss, ABC):
    """A loss that depends on several examples of a batch together."""

    @abstractmethod
    def loss(self, out: Forward) -> Tensor:
        """Return the loss, a scalar."""


class OnWeights(WithModules):
    """A loss on the weights alone, those of its modules included, which acts in each step: by its gradient before it, or by its proximal step after it."""

    needs_start = False  # whether it needs the set START; such a term acts in tuning at home too

    def gradient(self, name: str, weight: Tensor, sets: Sets) -> Tensor | None:
        """Return the gradient at ``weight``, or None where the term does not act before a step."""
        return None

    def proximal(self, name: str, weight: Tensor, sets: Sets, reach: float) -> Tensor | None:
        """
        Return the weight after the proximal step, argmin_u reach * loss(u) + 1/2 ||u - weight||^2, or None where the
        term does not act after a step. ``reach``: how far a constant gradient of 1 moves the weight in a step.
        """
        return None


Term = PerExample | PerBatch | OnWeights


def check_terms(terms: Iterable[object]) -> None:
    """Raise ConfigError for what is not a loss term."""
    for term in terms:
        if not isinstance(term, Term):
            raise ConfigError(
                f"{term!r:.60} is not a loss term; pass one of fedtl.methods.losses, such as Proximal(0.1)"
            )


def losses_among(terms: Iterable[Term]) -> tuple[PerExample | PerBatch, ...]:
    """Return the terms on examples."""
    return tuple(term for term in terms if isinstance(term, PerExample | PerBatch))


@dataclass(frozen=True)
class WithoutGradient(OnWeights):
    """Another term's modules, and no gradient."""

    term: OnWeights

    def modules(self, features: int, shape: Shape) -> dict[str, nn.Module]:
        return self.term.modules(features, shape)

    def summaries(self) -> tuple[Summary, ...]:
        return self.term.summaries()

    def gradient(self, name: str, weight: Tensor, sets: Sets) -> None:
        return None


@dataclass(frozen=True)
class TaskLoss(PerExample):
    """The task's own loss (``tasks.base``), such as cross-entropy for classes, squared error (halved) for values."""

    any_task = True
    by_pixel = True

    def losses(self, out: Forward) -> Tensor:
        return out.batch.task.training_losses(out.scores, out.batch.y)

    def counts(self, out: Forward) -> Tensor:
        return out.batch.labelled


@dataclass(frozen=True)
class Proximal(OnWeights):
    """
    Li et al., 2020 (FedProx): local weights stay near the received ones.

    The loss is mu/2 ||w - w_to||^2 over the weights that the set ``to`` has. Its proximal step with reach t gives
    (w + t mu w_to) / (1 + t mu), which is stable at any mu; a step along its gradient diverges where t mu > 2.
    """

    mu: Weight = 0.01
    to: str = SHARED

    def proximal(self, name: str, weight: Tensor, sets: Sets, reach: float) -> Tensor | None:
        if name not in sets[self.to]:
            return None
        share = pull.squared(self.mu, torch.full((), reach, device=weight.device))
        return torch.lerp(weight, sets[self.to][name], share)
