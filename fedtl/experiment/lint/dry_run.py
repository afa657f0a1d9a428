"""Read an experiment's rows and build its model without training: each silo's guarantee, and what would be refused."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fedtl.data import origins
from fedtl.data.dataset import SiloDataset
from fedtl.data.synthetic import synthetic_like
from fedtl.errors import ConfigError, FedTLError, SiloFailed
from fedtl.experiment.config.privacy_checks import unsound
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.guarantees import silo_guarantee, unknown_silos
from fedtl.experiment.study import Study, build
from fedtl.messages import Task
from fedtl.models.failures import module_failure
from fedtl.privacy.guarantee import PrivacyGuarantee, Releases
from fedtl.simulation import choose
from fedtl.simulation.settings import EngineSettings
from fedtl.simulation.shared_store import SharedStore

SYNTHETIC_ROWS = 8
MAX_FORWARD_SECONDS = (
    1.0  # a model with a slower forward pass over them is not tried: the check takes about 30 passes
)


@dataclass(frozen=True)
class Examined:
    """
    ``guarantees``: of the silos that can have one. ``refused``: why the experiment would not be trained, a line each.
    ``tried``: whether the per-example gradients of model and losses were checked on synthetic rows; those of large models
    are checked only when training starts.
    """

    study: Study
    guarantees: Mapping[str, PrivacyGuarantee]
    refused: tuple[str, ...]
    tried: bool = False


def examine(experiment: Experiment, store: SharedStore) -> Examined:
    """Examine the experiment. Raises what ``build`` raises, because without rows or a model nothing can be checked."""
    refused = list(unsound(experiment))
    study = replace(build(_without_training_settings(experiment), store, store), experiment=experiment)
    try:
        choose.check_engine(experiment.engine, study.trainer)
    except ConfigError as error:
        refused.append(str(error))
    if experiment.privacy is None:
        return Examined(study, {}, tuple(refused))
    refused += unknown_silos(study)
    guarantees: dict[str, PrivacyGuarantee] = {}
    for name in (
        study.training if study.method.phases or study.method.summaries else ()
    ):  # or nothing is released
        refused += _plan_silo(study, name, guarantees, refused)
    for name, guarantee in guarantees.items():
        refused += _charge_mismatches(name, guarantee)
    tried = False
    for name, guarantee in list(guarantees.items())[:1]:  # all silos have the same model and losses
        rows = synthetic_like(study.data(name), SYNTHETIC_ROWS)
        if tried := _is_fast(study, rows):
            refused += _dependent_examples(study, rows, guarantee)
    return Examined(study, guarantees, tuple(dict.fromkeys(refused)), tried)


def _plan_silo(
    study: Study, name: str, guarantees: dict[str, PrivacyGuarantee], known: list[str]
) -> list[str]:
    """Add a silo's guarantee to ``guarantees``, or return why there is none. ``known``: reasons found before."""
    reasons: list[str] = []
    try:
        reasons += [f"{name}: {origins.REFUSED}{text}" for text in origins.refusals(study.data(name).origins)]
        guarantees[name] = silo_guarantee(study, name, Path())
    except FedTLError as error:
        text = str(error)
        named = text in [*known, *reasons] or text.startswith((f"{name}:", f"silo {name}:"))
        reasons.append(text if named else f"{name}: {text}")
    return reasons


def _without_training_settings(experiment: Experiment) -> Experiment:
    """Return the experiment with the default engine and, under privacy, float32: other values are refused elsewhere."""
    if experiment.privacy is None:
        return experiment.model_copy(update={"engine": EngineSettings()})
    model = experiment.model.model_copy(update={"dtype": "float32"})
    return experiment.model_copy(update={"engine": EngineSettings(), "model": model})


def _charge_mismatches(name: str, guarantee: PrivacyGuarantee) -> Iterator[str]:
    """Yield a line where training and charge differ in steps, noise or sample rate, or exceed the epsilon asked for."""
    training, taken = guarantee.training, guarantee.training.all_steps
    firsts = [number == 0 for number in range(training.rounds)]
    charged = sum(
        event.steps
        for first in firsts
        for event in guarantee.events(first)
        if event not in guarantee.releases.in_round(first).events
        and (event.noise_multiplier, event.sample_rate) == (training.noise_multiplier, training.sample_rate)
    )
    budget = guarantee.account.budget.epsilon
    if charged != taken:
        yield f"{name}: training takes {taken} steps, but {charged} are charged with its noise multiplier and sample rate"
    if taken and not training.noise_multiplier > 0:
        yield f"{name}: the noise multiplier is {training.noise_multiplier:g}; without noise nothing is private"
    if guarantee.epsilon > budget:
        yield f"{name}: all rounds together use epsilon = {guarantee.epsilon:.4g}, more than the {budget:g} asked for"


def _is_fast(study: Study, data: SiloDataset) -> bool:
    """Return whether the model scores these rows fast enough to try a training step on them."""
    clock = time.perf_counter()
    study.trainer.scores(study.trainer.initial(data.width), data.train.x, data)
    return time.perf_counter() - clock < MAX_FORWARD_SECONDS


def _dependent_examples(study: Study, data: SiloDataset, guarantee: PrivacyGuarantee) -> Iterator[str]:
    """Yield a line where an example affects another's gradient: one step of each phase on synthetic rows shows it."""
    training = replace(
        guarantee.training, sample_rate=0.5, steps=tuple(min(1, steps) for steps in guarantee.training.steps)
    )
    units = replace(guarantee.protected, count=SYNTHETIC_ROWS)
    trial = replace(guarantee, protected=units, training=training, releases=Releases(), canaries=None)
    shared, _ = study.trainer.partition.split(study.trainer.initial(data.width))
    task = Task("trial", 1, training.rounds, study.experiment.seed, shared)
    try:
        study.trainer.fit_unaccounted(replace(study.silo("synthetic", data), guarantee=trial), task)
    except ConfigError as error:
        yield str(error)
    except SiloFailed:
        pass  # training may diverge on synthetic rows; the check of the gradients came before
    except Exception as error:
        if (line := module_failure(error)) is None:
            raise
        yield f"on synthetic rows {line}"
