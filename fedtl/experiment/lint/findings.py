"""Everything about an experiment's privacy at once: what is unsound, what is doubtful, and what holds."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedtl.errors import FedTLError
from fedtl.experiment.config.model_schema import ModelSettings
from fedtl.experiment.config.privacy_checks import doubtful, unsound
from fedtl.experiment.config.repair import Repaired, repair
from fedtl.experiment.config.schema import Experiment, SiloSettings
from fedtl.experiment.lint.claims import guarantee_claims
from fedtl.experiment.lint.dry_run import Examined, examine
from fedtl.experiment.lint.duplicate_rows import duplicate_rows
from fedtl.experiment.lint.index_columns import index_columns
from fedtl.experiment.lint.unread import unused_rows
from fedtl.experiment.privacy_report import privacy_warnings
from fedtl.simulation.shared_store import SharedStore, temporary_store

PLAIN_MODELS = (ModelSettings(), ModelSettings(name="mlp"))  # for images, and for rows of a table


@dataclass(frozen=True)
class Findings:
    """
    One line each. ``unsound``: why the experiment would not be trained. ``doubtful``: what weakens its guarantee.
    ``holds``: what is guaranteed.
    """

    unsound: tuple[str, ...]
    doubtful: tuple[str, ...]
    holds: tuple[str, ...]


def lint(table: Mapping[str, Any]) -> Findings:
    """
    Return the findings on an experiment's plain values. Reads the data, builds the model, and tries it on a few synthetic
    rows; trains nothing. A mistake of any kind is a finding, never an exception.
    """
    repaired = repair(table)
    wrong, doubts = [*repaired.mistakes, *unsound(repaired.experiment)], list(doubtful(repaired.experiment))
    claims: list[str] = []
    if repaired.rows:
        doubts += index_columns(repaired.experiment)
    if repaired.experiment.privacy is not None and repaired.rows:
        with temporary_store() as store:
            examined, errors = _examined(repaired, store)
            wrong += errors
            if examined is not None:
                wrong += examined.refused
                doubts += [*unused_rows(examined.study), *duplicate_rows(examined.study)]
                if not repaired.mistakes and not errors:  # otherwise the numbers belong to other settings
                    doubts += privacy_warnings(examined.guarantees.values())
                if not wrong:  # an experiment that would not be trained has no guarantee
                    claims += guarantee_claims(examined)
    return Findings(tuple(dict.fromkeys(wrong)), tuple(dict.fromkeys(doubts)), tuple(claims))


def _examined(repaired: Repaired, store: SharedStore) -> tuple[Examined | None, list[str]]:
    """
    Examine the rows with the experiment's own model or, where that cannot be built, with a plain one. Returns also the
    errors of the models that could not be built; None where the rows cannot be read.
    """
    errors: list[str] = []
    for experiment in (repaired.experiment, *_with_plain_models(repaired.experiment)):
        try:
            return examine(experiment, store), errors
        except FedTLError as error:
            errors.append(str(error))
    return None, errors[:1]


def _with_plain_models(experiment: Experiment) -> Iterator[Experiment]:
    """Yield the experiment with plain models, without released statistics: their number depends on the model."""
    assert experiment.privacy is not None
    privacy = experiment.privacy.model_copy(update={"statistics": "public", "stages": []})
    silo = {
        name: SiloSettings(
            privacy={k: v for k, v in own.privacy.items() if k not in ("statistics", "stages")}
        )
        for name, own in experiment.silo.items()
    }
    for model in PLAIN_MODELS:
        plain = model.model_copy(
            update={"pretrain_on": experiment.model.pretrain_on}
        )  # public silos do not train
        yield experiment.model_copy(update={"model": plain, "privacy": privacy, "silo": silo})
