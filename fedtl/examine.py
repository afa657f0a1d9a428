"""
What happens once, after the last round: each silo settles its own model, and only then are test rows read.

Late silos are onboarded here too. Both are jobs that an engine runs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedtl.bench import Bench
from fedtl.data.prepare import Exam
from fedtl.data.splits import stratified
from fedtl.errors import SiloFailed
from fedtl.messages import Task
from fedtl.method import HEAD, Phase
from fedtl.metrics import measure
from fedtl.partition import EVERYTHING
from fedtl.randomness import numpy_generator
from fedtl.silo import Rows, Silo, SiloData
from fedtl.state import State, not_finite

HEAD_EPOCHS = 50  # over a late silo's few labelled rows; a linear head is settled by then

Figures = dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """A silo's own model in the end, and what it scores. ``scores``, ``y``, ``ids``: every test row."""

    state: State
    validation: Figures
    test: Figures
    scores: Tensor
    y: Tensor
    ids: Tensor
    target: Figures = field(default_factory=dict)
    target_adabn: Figures = field(default_factory=dict)


@dataclass(frozen=True)
class Examine:
    """Settle, measure on validation rows, then on test rows. ``exam`` opens a silo's exam; nobody else can."""

    task: Task
    exam: Callable[[str], Exam]

    def __call__(self, bench: Bench, silo: Silo) -> Outcome:
        state, data = bench.settle(silo, self.task), silo.data
        if broken := not_finite(state):
            raise SiloFailed(f"{silo.name}: {broken} is not finite in the end")
        exam = self.exam(silo.name)
        scores = bench.scores(state, exam.test.x, data)
        target: Figures = {}
        target_adabn: Figures = {}
        if exam.target is not None and data.target is not None:
            target = _figures(bench, state, exam.target, data)
            adapted = state | bench.adapt(state, data.target, data.width)
            target_adabn = _figures(bench, adapted, exam.target, data) if adapted is not state else {}
        return Outcome(
            state=state,
            validation=_figures(bench, state, data.val, data),
            test=measure(scores, exam.test.y),
            scores=scores,
            y=exam.test.y,
            ids=exam.ids,
            target=target,
            target_adabn=target_adabn,
        )


@dataclass(frozen=True)
class Onboard:
    """
    A silo that did not train meets the shared model, with ``shots`` labelled rows a class and all its inputs.

    Where the head is shared: the model as it came, and after AdaBN. Otherwise: its own head on the received body
    with the initial statistics, and its own head after AdaBN. Beside both, the silo trained alone on the same
    labelled rows.
    """

    task: Task
    exam: Callable[[str], Exam]
    shots: int
    alone_epochs: int

    def __call__(self, bench: Bench, silo: Silo) -> dict[str, Figures]:
        exam, data = self.exam(silo.name), silo.data
        few = Silo(silo.name, _few(data, self.shots, self.task.seed, silo.name), silo.local, silo.secret)
        initial = bench.initial(data.width)
        models = {"alone": bench.train(few, initial, Phase(EVERYTHING, self.alone_epochs), self.task)}
        if bench.partition.shared:
            came = bench.partition.join(self.task.shared, silo.local)
            adapted = came | bench.adapt(came, data.train.x, data.width)
            if bench.method.head_is_local:
                models["head"] = bench.train(few, came, Phase(HEAD, HEAD_EPOCHS), self.task)
                models["head_adabn"] = bench.train(few, adapted, Phase(HEAD, HEAD_EPOCHS), self.task)
            else:
                models["as_received"], models["adabn"] = came, adapted
        return {row: _figures(bench, state, exam.test, data) for row, state in models.items()}


def _few(data: SiloData, shots: int, seed: int, name: str) -> SiloData:
    """The same silo with ``shots`` labelled rows a class (or, in regression, in all)."""
    rng = numpy_generator("shots", seed, name)
    kept: list[int] = []
    groups = torch.unique(data.train.y).tolist() if data.classes else [None]
    for group in groups:
        rows = torch.arange(len(data.train)) if group is None else (data.train.y == group).nonzero()[:, 0]
        drawn, _ = stratified(torch.zeros(len(rows)).numpy(), shots, rng)
        kept += rows[drawn].tolist()
    chosen = torch.tensor(sorted(kept))
    train = Rows(data.train.x[chosen], data.train.y[chosen])
    return SiloData(train, data.val, data.classes, None, data.y_mean, data.y_std)


def _figures(bench: Bench, state: State, rows: Rows, data: SiloData) -> Figures:
    return measure(bench.scores(state, rows.x, data), rows.y)
