"""
What an audit has to do, in pieces that do not wait for each other, by the experiment's own engine: a whole reference
federation is one piece, so that no worker waits for another one at the end of a round.

A piece is a job at a silo of nobody's; its name is the piece's.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.errors import SiloFailed
from fedtl.experiment.study import Study, make_worker_context
from fedtl.models.state import State
from fedtl.simulation import choose
from fedtl.simulation.engine import Engine, WorkerContext
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer

NOBODY = SiloDataset(Dataset(torch.empty(0), torch.empty(0)), Dataset(torch.empty(0), torch.empty(0)), ())
Piece = Callable[[Trainer], Any]  # a value that can be sent to another process, as its result can


@dataclass(frozen=True)
class _Pieces:
    """The job of all pieces at once: each silo's name says which is its."""

    pieces: Mapping[str, Piece]

    def __call__(self, trainer: Trainer, silo: Silo) -> Any:
        return self.pieces[silo.name](trainer)


def _place(source: Callable[[], WorkerContext]) -> WorkerContext:
    return WorkerContext(source().trainer, _nobody)


def _nobody(name: str) -> SiloDataset:
    return NOBODY


@contextmanager
def engine_for(study: Study, start: State | None) -> Iterator[Engine]:
    """The experiment's own engine, for as long as the audit lasts: a worker takes seconds to begin."""
    made = partial(_place, partial(make_worker_context, study.source, str(study.trainer.device), start))
    with choose.make_engine(study.experiment.engine, study.trainer, made, len(study.training)) as engine:
        yield engine


def done(engine: Engine, pieces: Mapping[str, Piece]) -> Iterator[tuple[str, Any]]:
    """Each piece's result, in order. Raises SiloFailed for one that cannot be had."""
    for name, result in engine.each(_Pieces(pieces), [Silo(name, NOBODY, {}, b"") for name in pieces]):
        if isinstance(result, SiloFailed):
            raise result
        yield name, result


def by_kind(engine: Engine, wanted: Mapping[str, Mapping[Any, Piece]]) -> Iterator[tuple[str, Any, Any]]:
    """Pieces of several kinds, all at once: kind, key and result of each, in order."""
    places = [(kind, key) for kind, pieces in wanted.items() for key in pieces]
    results = done(engine, {f"{kind}: {key}": wanted[kind][key] for kind, key in places})
    for (kind, key), (_, result) in zip(places, results, strict=True):
        yield kind, key, result
