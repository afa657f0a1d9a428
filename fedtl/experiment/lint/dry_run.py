"""A look at an experiment's rows and model, without training: what each silo can promise, and what would be refused."""

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
from fedtl.experiment.study import Study, build
from fedtl.messages import Task
from fedtl.privacy.guarantee import PrivacyGuarantee, Releases
from fedtl.simulation import choose
from fedtl.simulation.settings import EngineSettings
from fedtl.simulation.shared_store import SharedStore

STRANGERS = 8
SECONDS = 1.0  # for one pass over them: trying takes some thirty


@dataclass(frozen=True)
class Examined:
    """
    ``guarantees``: of those silos that can make one. ``refused``: why the experiment would not be trained, a line each.
    ``tried``: whether model and losses were tried on rows of nobody; large ones are not, before training.
    """

    study: Study
    guarantees: Mapping[str, PrivacyGuarantee]
    refused: tuple[str, ...]
    tried: bool = False


def examine(experiment: Experiment, shelf: SharedStore) -> Examined:
    """Raises what ``build`` raises: without rows or a model there is nothing to look at."""
    refused = list(unsound(experiment))
    study = replace(build(_bare(experiment), shelf, shelf), experiment=experiment)
    try:
        choose.check_engine(experiment.engine, study.trainer)
    except ConfigError as error:
        refused.append(str(error))
    if experiment.privacy is None:
        return Examined(study, {}, tuple(refused))
    refused += study.unknown()
    guarantees: dict[str, PrivacyGuarantee] = {}
    for name in study.training if study.method.phases else ():  # what never trains has no steps to promise
        try:
            refused += [
                f"{name}: {origins.REFUSED}{text}" for text in origins.refusals(study.data(name).origins)
            ]
            guarantees[name] = study.guarantee(name, Path())
        except FedTLError as error:
            text = str(error)
            named = text in refused or text.startswith((f"{name}:", f"silo {name}:"))
            refused.append(text if named else f"{name}: {text}")
    for name, its in guarantees.items():
        refused += _unbooked(name, its)
    tried = False
    for name, its in list(guarantees.items())[:1]:  # all have the same model and losses
        strangers = synthetic_like(study.data(name), STRANGERS)
        if tried := _quick(study, strangers):
            refused += _meeting(study, strangers, its)
    return Examined(study, guarantees, tuple(dict.fromkeys(refused)), tried)


def _bare(experiment: Experiment) -> Experiment:
    """Without what only training needs: engine, and arithmetic that is refused where it matters."""
    if experiment.privacy is None:
        return experiment.model_copy(update={"engine": EngineSettings()})
    model = experiment.model.model_copy(update={"dtype": "float32"})
    return experiment.model_copy(update={"engine": EngineSettings(), "model": model})


def _unbooked(name: str, its: PrivacyGuarantee) -> Iterator[str]:
    """Where what is done is not what is charged: other steps, another sampling rate, less noise, more epsilon."""
    training, taken = its.training, its.training.all_steps
    rounds = [its.events(first=number == 0) for number in range(training.rounds)]
    charged = [event for events in rounds for event in events]
    booked = sum(
        e.steps
        for e in charged
        if (e.noise_multiplier, e.sample_rate) == (training.noise_multiplier, training.sample_rate)
    )
    if booked != taken:
        yield f"{name}: {taken} steps are taken, and {booked} of that noise and sampling rate are charged"
    if taken and not training.noise_multiplier > 0:
        yield f"{name}: the noise is {training.noise_multiplier:g} times the clip; without noise nothing is private"
    if its.epsilon > its.account.budget.epsilon:
        yield f"{name}: all rounds come to epsilon = {its.epsilon:.4g}, and {its.account.budget.epsilon:g} was asked for"


def _quick(study: Study, data: SiloDataset) -> bool:
    """Whether trying the model out on these rows is a matter of seconds."""
    clock = time.perf_counter()
    study.trainer.scores(study.trainer.initial(data.width), data.train.x, data)
    return time.perf_counter() - clock < SECONDS


def _meeting(study: Study, data: SiloDataset, its: PrivacyGuarantee) -> Iterator[str]:
    """Where records meet in the model or its losses: a step of each phase on rows of nobody, charged to nobody, asks it."""
    training = replace(
        its.training, sample_rate=0.5, steps=tuple(min(1, steps) for steps in its.training.steps)
    )
    units = replace(its.protected, count=STRANGERS)
    trial = replace(its, protected=units, training=training, releases=Releases(), canaries=None)
    shared, _ = study.trainer.partition.split(study.trainer.initial(data.width))
    task = Task("trial", 1, training.rounds, study.experiment.seed, shared)
    try:
        study.trainer.fit_unaccounted(replace(study.silo("nobody", data), guarantee=trial), task)
    except ConfigError as error:
        yield str(error)
    except SiloFailed:
        pass  # such rows may well be too much for the learning rate; whether records meet was asked before
