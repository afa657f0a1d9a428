"""
Writes the shared model of a study as a model of this site. A site that trained in the study finishes its own model; one
that did not adapts the statistics and fits a head to its few rows. Nothing leaves. The test rows are read once, here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from fedtl._util.records import to_plain
from fedtl.data.prepare import Prepared
from fedtl.deployment.coordinator.bundle import read_agreement
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.joining import Joining, OwnModelOnce, joining_of
from fedtl.deployment.site.site_plan import SitePlan, build_study
from fedtl.deployment.site.site_rows import load_rows
from fedtl.deployment.site.site_silo import make_silo
from fedtl.deployment.site.state_store import StoredRound, schema_of
from fedtl.errors import ConfigError
from fedtl.experiment.config.schema import PrivacySettings
from fedtl.experiment.final_models import save_final_model, save_frozen
from fedtl.experiment.provenance import provenance_after_finish, provenance_after_rounds
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import Study
from fedtl.federation.policy import check_task
from fedtl.messages import Task
from fedtl.methods.base import HEAD, Phase
from fedtl.methods.candidate import Candidate
from fedtl.methods.ridge import RidgeHead
from fedtl.models.roles import Role
from fedtl.models.state import State
from fedtl.privacy import taint
from fedtl.privacy.taint import Label
from fedtl.results.metrics import Measured
from fedtl.training import threads
from fedtl.training.at_home import FinalModel, Member, Watch
from fedtl.training.finish import HEAD_EPOCHS, Examine, Onboard, has_no_head, no_head, with_ridge_head
from fedtl.training.metrics import measure
from fedtl.training.silo import Silo

FITTED_ROLES = HEAD | {Role.STATS}  # what a site that did not train in the study fits to its rows


@dataclass(frozen=True)
class AdoptedModel:
    """
    ``trained``: whether the site trained in the study. ``rows``: used for training. ``test``: the measurements of the
    adopted model ("in use") and, where the site did not train, of the models that it could have had instead. ``joining``: where it
    did train, whether that helped; None where this was not asked for, or cannot be known.
    """

    silo: str
    trained: bool
    rows: int
    test: Mapping[str, Measured]
    joining: Joining | None = None


@dataclass(frozen=True)
class _Model:
    """A final model, the provenance of the tensors of its main model, and its measurements on test rows."""

    final: FinalModel
    labels: Mapping[str, Label]
    test: Mapping[str, Measured]
    joining: Joining | None = None


def adopt_model(
    home: Home,
    bundle: Path,
    shared_file: Path,
    study_name: str,
    out: Path,
    watch: Watch | None = None,
    compare: bool = True,
) -> AdoptedModel:
    """
    Write the model to ``out``, a run folder that predict and export read. ``watch`` is called with the rounds done and their
    number, while a site that trained in the study trains its own model in addition to the shared one. ``compare``: it does so in any case, to
    tell whether joining helped. Raises ConfigError, DataError, Denied.
    """
    plan, planned_privacy = _plan(home, bundle)
    received = _read_shared(shared_file)
    rounds, seed = plan.agreement.experiment.rounds, plan.agreement.experiment.seed
    check_task(Task(study_name, rounds, rounds, seed, received), plan.terms)
    threads.set_threads(home.settings.threads)
    folder = RunFolder.create(out, plan.experiment)
    rows = load_rows(plan)
    study = build_study(plan, rows.data.classes)
    stored = home.states.load(study_name, schema_of(study.trainer.initial(rows.data.width)))
    silo = make_silo(plan, study, rows)
    task = Task(study_name, rounds + 1, rounds, seed, received)
    labels = provenance_after_rounds(study.trainer, study.first, planned_privacy)
    if stored:
        silo.local = stored.local
        alone = OwnModelOnce(watch)
        examine = Examine(task, lambda _: rows.prepared.evaluation_set, alone)
        model = _finished(study, silo, stored, examine, labels, alone if compare else None)
    else:
        model = _fitted(study, silo, task, rows.prepared, labels)
    folder.save_tensors("shared.safetensors", received, labels)
    common = received | save_frozen(folder, study.trainer, study.first)
    save_final_model(folder, plan.name, model.final, common, model.labels)
    folder.save_inputs(plan.name, rows.prepared.inputs, rows.data.classes, tuple(plan.agreement.shape))
    adopted = AdoptedModel(plan.name, stored is not None, len(rows.data.train), model.test, model.joining)
    folder.write_json("result.json", to_plain(adopted))
    return adopted


def _plan(home: Home, bundle: Path) -> tuple[SitePlan, PrivacySettings | None]:
    """Return the plan at this site, and the privacy settings under which the model was trained, or None."""
    _, agreement = read_agreement(bundle.read_bytes(), str(bundle))
    planned_privacy = agreement.experiment.privacy
    if (
        home.settings.policy.privacy is None
    ):  # nothing leaves here, so using a private plan's model needs no budget
        experiment = agreement.experiment.model_copy(update={"privacy": None})
        agreement = agreement.model_copy(update={"experiment": experiment})
    return SitePlan(home, agreement), planned_privacy


def _read_shared(path: Path) -> State:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path} is not a shared.safetensors file: {error}") from error


def _finished(
    study: Study,
    silo: Silo,
    stored: StoredRound,
    examine: Examine,
    labels: Mapping[str, Label],
    alone: OwnModelOnce | None,
) -> _Model:
    """The silo's own model after the last round. ``alone``: makes the one that it is compared with; None: it is not compared."""
    outcome = examine(study.trainer, silo)
    own = taint.labels_by_tensor(
        stored.labels, {name: study.trainer.partition.roles[name] for name in stored.local}
    )
    provenance = provenance_after_finish(study.trainer, {**labels, **own})
    joining = joining_of(study, silo, examine, alone, outcome) if alone and silo.data.has_labels else None
    return _Model(outcome.model, provenance, {"in use": outcome.test}, joining)


def _fitted(study: Study, silo: Silo, task: Task, prepared: Prepared, labels: Mapping[str, Label]) -> _Model:
    """The shared model with statistics and, if the head is local, a head that are fitted to this site's own rows."""
    trainer, data = study.trainer, silo.data
    alone_epochs = study.experiment.rounds * study.experiment.train.epochs
    onboard = Onboard(task, lambda _: prepared.evaluation_set, len(data.train), alone_epochs)
    others = onboard(trainer, silo) if data.has_labels else {}  # without labels nothing else can be trained
    received = trainer.partition.join(task.shared, silo.local)
    state = trainer.adapt(received, data.inputs, data.width)
    if any(isinstance(step, RidgeHead) for step in trainer.method.finish):
        state = with_ridge_head(trainer, silo, task, received, state)
    elif trainer.method.head_is_local and data.has_labels:
        state = trainer.train(silo, state, Phase(HEAD, HEAD_EPOCHS), task)
    test = prepared.evaluation_set.test
    scores = trainer.scores(state, test.x, data)
    in_use = no_head(data) if has_no_head(trainer, silo) else measure(scores, test.y, data.task)
    fitted = taint.labels_after(labels, trainer.loop.movable(FITTED_ROLES), private=False)
    return _Model(FinalModel((Member(Candidate.TUNED, 1.0, state),)), fitted, {"in use": in_use, **others})
