"""
A site takes the shared model into use: one that trained settles its own model; one that never did adapts statistics to
its inputs and fits its own head, on a handful of rows. Nothing leaves. Test rows are read once, here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fedtl._util.records import to_plain
from fedtl.data.prepare import Prepared
from fedtl.deployment.coordinator.bundle import agreement_in
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.site_plan import SitePlan
from fedtl.errors import ConfigError
from fedtl.experiment.privacy_plan import settled, trained
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import Study
from fedtl.federation.policy import check_task
from fedtl.messages import Task
from fedtl.methods.base import HEAD, Phase
from fedtl.models.roles import Role
from fedtl.models.state import State
from fedtl.privacy import taint as labels
from fedtl.privacy.taint import Label
from fedtl.results.metrics import Measured
from fedtl.training import threads as machine
from fedtl.training.finish import HEAD_EPOCHS, Examine, Onboard
from fedtl.training.metrics import measure
from fedtl.training.silo import Silo

FITTED = HEAD | {Role.STATS}  # what a site that never trained fits to its rows


def adopt(home: Home, bundle: Path, shared: Path, study_name: str, out: Path) -> dict[str, Any]:
    """
    Write the model to ``out``, a run folder that predict and export read. The figures: of the model in use, and, where
    the site never trained, of the others that it could have had. Raises ConfigError, DataError, Denied.
    """
    _, its = agreement_in(bundle.read_bytes(), str(bundle))
    asked = its.experiment.privacy
    if home.settings.policy.privacy is None:  # nothing leaves, so a private plan's model needs no budget here
        its = its.model_copy(update={"experiment": its.experiment.model_copy(update={"privacy": None})})
    place = SitePlan(home, its)
    try:
        received = load_file(shared)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{shared} is no file of shared tensors: {error}") from error
    rounds = its.experiment.rounds
    check_task(Task(study_name, rounds, rounds, its.experiment.seed, received), place.terms)
    task = Task(study_name, rounds + 1, rounds, its.experiment.seed, received)
    machine.set_threads(home.settings.threads)
    folder = RunFolder.create(out, place.experiment)
    prepared = place.prepared()
    study = place.study(prepared.data.classes)
    kept = home.memory.load(study_name, place.schema(study, prepared.data.width))
    silo = place.silo(study, prepared.data)
    came = trained(study.trainer, study.first, asked)
    if kept:
        silo.local = kept.local
        outcome = Examine(task, lambda _: prepared.exam)(study.trainer, silo)
        state, figures = outcome.state, {"in use": outcome.test}
        own = labels.by_tensor(
            kept.labels, {name: study.trainer.partition.roles[name] for name in kept.local}
        )
        said = settled(study.trainer, came | own)
    else:
        state, figures = _late(study, silo, task, prepared)
        said = labels.after(came, study.trainer.loop.movable(FITTED), private=False)
    folder.save_tensors("shared.safetensors", received, came)
    _keep(folder, place, prepared, received, state, said)
    result = {
        "silo": place.name,
        "trained": kept is not None,
        "rows": len(prepared.data.train),
        "test": to_plain(figures),
    }
    folder.write_json("result.json", result)
    return result


def _late(study: Study, silo: Silo, task: Task, prepared: Prepared) -> tuple[State, dict[str, Measured]]:
    """AdaBN, then, where the head is not shared, a head of its own; beside it, what else could be had."""
    trainer, data, train = study.trainer, silo.data, study.experiment.train
    alone = study.experiment.rounds * train.epochs
    figures = Onboard(task, lambda _: prepared.exam, len(data.train), alone)(trainer, silo)
    came = trainer.partition.join(task.shared, silo.local)
    state = trainer.adapt(came, data.train.x, data.width)
    if trainer.method.head_is_local:
        state = trainer.train(silo, state, Phase(HEAD, HEAD_EPOCHS), task)
    return state, {
        "in use": measure(trainer.scores(state, prepared.exam.test.x, data), prepared.exam.test.y),
        **figures,
    }


def _keep(
    folder: RunFolder,
    place: SitePlan,
    prepared: Prepared,
    shared: State,
    state: State,
    said: Mapping[str, Label],
) -> None:
    own = {
        name: its for name, its in state.items() if name not in shared or not torch.equal(its, shared[name])
    }
    folder.save_tensors(f"silos/{place.name}/local.safetensors", own, said)
    folder.save_inputs(place.name, prepared.inputs, prepared.data.classes, tuple(place.agreement.shape))
