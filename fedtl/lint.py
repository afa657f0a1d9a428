"""Everything about an experiment's privacy at once: what is untrue, what to ask about, and what holds, with its numbers."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedtl.errors import FedTLError
from fedtl.experiment.schema import Experiment
from fedtl.experiment.soundness import doubtful, unsound
from fedtl.planning import warnings
from fedtl.privacy.promise import Promise
from fedtl.simulate.shelf import temporary
from fedtl.study import Study, build


@dataclass(frozen=True)
class Findings:
    """One line each. ``unsound``: it will not be trained; ``doubtful``: it may be; ``holds``: what is promised."""

    unsound: tuple[str, ...]
    doubtful: tuple[str, ...]
    holds: tuple[str, ...]


def lint(experiment: Experiment) -> Findings:
    """Reads the data and builds the model; trains nothing. Mistakes are findings; nothing is raised for them."""
    wrong, odd = list(unsound(experiment)), list(doubtful(experiment))
    promises: dict[str, Promise] = {}
    if experiment.privacy is not None:
        with temporary() as shelf:
            try:
                study = build(experiment, shelf, shelf)
            except FedTLError as error:
                wrong.append(str(error))
            else:
                wrong += _refusals(study, promises)
                odd += _rows(study)
    odd += [text for its in promises.values() for text in warnings(its)]
    return Findings(tuple(dict.fromkeys(wrong)), tuple(dict.fromkeys(odd)), tuple(_holds(promises)))


def _refusals(study: Study, promises: dict[str, Promise]) -> Iterator[str]:
    """What only a look at each silo's rows can tell; ``promises`` takes those that can be made."""
    for name in study.training:
        try:
            promises[name] = study.promise(name, Path())
        except FedTLError as error:
            text = str(error)
            yield text if text.startswith(f"{name}:") else f"{name}: {text}"


def _rows(study: Study) -> Iterator[str]:
    """Rows that stand twice in a silo: a record that has copies is protected as often less."""
    for name in study.training:
        x = study.data(name).train.x.flatten(1)
        copies = len(x) - len(x.unique(dim=0))
        if copies and study.experiment.privacy and study.experiment.privacy.unit == "record":
            yield f"{name}: {copies} of {len(x)} training rows are copies of another; whoever's they are is protected less"


def _holds(promises: dict[str, Promise]) -> Iterator[str]:
    if not promises:
        return
    some = list(promises.values())
    noise, rates = [its.noise_multiplier for its in some], [its.sample_rate for its in some]
    steps = sorted({its.rounds * sum(its.steps) for its in some})
    units = sorted({its.unit for its in some})
    if all(its.seed is None for its in some):
        yield (
            f"noise: {min(noise):.3g} to {max(noise):.3g} times the clip on every step of every silo, never 0; keyed by the "
            "operating system, never by a seed"
        )
    yield (
        f"sampling: each {units[0]} by its own coin (Poisson), with chance {min(rates):.3g} to {max(rates):.3g}; booked as that"
    )
    yield f"steps: {', '.join(map(str, steps))} in all, fixed beforehand, and no more whatever a sample holds"
    yield "accounting: one ledger a silo, charged before each round and never begun anew; all rounds end at the epsilon asked for"
    yield "what leaves: noisy tensors; no loss, accuracy, number of rows, or words of an error"
