"""Everything about an experiment's privacy at once: what is untrue, what to ask about, and what holds, with its numbers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedtl.errors import FedTLError
from fedtl.experiment.config.privacy_checks import doubtful, unsound
from fedtl.experiment.config.repair import Mended, mended
from fedtl.experiment.config.schema import Experiment, ModelSettings, SiloSettings
from fedtl.experiment.lint.claims import holds
from fedtl.experiment.lint.dry_run import Examined, examine
from fedtl.experiment.lint.duplicate_rows import copies
from fedtl.experiment.lint.unread import unread
from fedtl.experiment.privacy_plan import warnings
from fedtl.simulation.shared_store import SharedStore, temporary_store

PLAIN_MODELS = (ModelSettings(), ModelSettings(name="mlp"))  # for images, and for rows of a table


@dataclass(frozen=True)
class Findings:
    """One line each. ``unsound``: it will not be trained; ``doubtful``: it may be; ``holds``: what is promised."""

    unsound: tuple[str, ...]
    doubtful: tuple[str, ...]
    holds: tuple[str, ...]


def lint(table: Mapping[str, Any]) -> Findings:
    """
    ``table``: an experiment's plain values. Reads the data, builds the model, and tries it on a few rows of nobody; trains
    nothing. Mistakes are findings, whatever they are about; nothing is raised for them.
    """
    its = mended(table)
    wrong, odd = [*its.mistakes, *unsound(its.experiment)], list(doubtful(its.experiment))
    promised: list[str] = []
    if its.experiment.privacy is not None and its.rows:
        with temporary_store() as shelf:
            found, said = _examined(its, shelf)
            wrong += said
            if found is not None:
                wrong += found.refused
                odd += [*unread(found.study), *copies(found.study)]
            if found is not None and not its.mistakes and not said:  # else its numbers are of other settings
                odd += [text for guarantee in found.guarantees.values() for text in warnings(guarantee)]
            if found is not None and not wrong:  # what will not be trained promises nothing
                promised += holds(found)
    return Findings(tuple(dict.fromkeys(wrong)), tuple(dict.fromkeys(odd)), tuple(promised))


def _examined(its: Mended, shelf: SharedStore) -> tuple[Examined | None, list[str]]:
    """
    What a look at the rows finds, with the experiment's own model or, where that cannot be had, a plain one; and why it
    could not. None where it is the rows that cannot be had.
    """
    said: list[str] = []
    for experiment in (its.experiment, *_with_plain_models(its.experiment)):
        try:
            return examine(experiment, shelf), said
        except FedTLError as error:
            said.append(str(error))
    return None, said[:1]


def _with_plain_models(experiment: Experiment) -> Iterator[Experiment]:
    """Without statistics to release: how many there are, and in which stages, is the model's."""
    assert experiment.privacy is not None
    privacy = experiment.privacy.model_copy(update={"statistics": "public", "stages": []})
    silo = {
        name: SiloSettings(
            privacy={k: v for k, v in own.privacy.items() if k not in ("statistics", "stages")}
        )
        for name, own in experiment.silo.items()
    }
    for model in PLAIN_MODELS:
        plain = model.model_copy(update={"pretrain_on": experiment.model.pretrain_on})  # they stay apart
        yield experiment.model_copy(update={"model": plain, "privacy": privacy, "silo": silo})
