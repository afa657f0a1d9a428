"""
Builds the app bundle: the two thin apps, one agreement and nothing else. Building it again gives the same hash. Next to it
stays what the coordinator needs to start a study: the first shared tensors, and the role of each.
"""

import json
import shutil
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import tomli_w
from safetensors.torch import save_file

import fedtl
from fedtl._util.files import sha256_of, write_bytes, write_file, write_json
from fedtl.data.columns import declared_columns
from fedtl.data.prepare import stored_name
from fedtl.data.registry import DATA
from fedtl.data.settings import DataSettings
from fedtl.deployment.bundle_contents import check_bundle_contents
from fedtl.deployment.coordinator.app_files import APP_FILES
from fedtl.deployment.coordinator.pack import pack_app
from fedtl.deployment.coordinator.study import HostedStudy
from fedtl.deployment.coordinator.study_files import SERVER_STEPS, BundleInfo, StudyPlan
from fedtl.deployment.flower_version import FLOWER_VERSION
from fedtl.deployment.plan import (
    EXPERIMENT_NAME,
    EXPERIMENTS_FOLDER,
    Agreement,
    make_agreement,
    with_column_names,
)
from fedtl.deployment.site.site_experiment import DP_READY
from fedtl.deployment.site.site_plan import NO_SHARED_STORE
from fedtl.errors import ConfigError
from fedtl.experiment.config.known_tasks import check_deployment
from fedtl.experiment.config.load import parse_experiment, read_experiment
from fedtl.experiment.config.resolve import limits_of, method_of, server_of
from fedtl.experiment.config.schema import Experiment, UpdateSettings
from fedtl.experiment.config.settings_file import validate
from fedtl.experiment.data_schema import DataSchema, SiloSchema, read_data_schema
from fedtl.experiment.public_inputs import write_prepared
from fedtl.experiment.study import Study, build
from fedtl.experiment.transfer.numbers import check_number
from fedtl.experiment.transfer.transferability import check_question
from fedtl.federation.rounds import FederationConfig
from fedtl.methods.base import own_labels

MAX_WEIGHT = 10_000.0  # rows, where the experiment sets no limit
MAX_NORM = 1000.0  # as max_update_norm of a new silo.toml


@dataclass(frozen=True)
class Bundle:
    """A bundle at its coordinator. ``folder/app``: its source. ``folder/<name>.fab``: the file that is sent to sites."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.fab"

    @property
    def public(self) -> Path:
        """Inputs that the coordinator and, with some methods, every site may see (``data.public``); for sites to be sent."""
        return self.folder / "public.safetensors"

    @property
    def public_hash(self) -> str:
        return sha256(self.public.read_bytes()).hexdigest()

    @property
    def hash(self) -> str:
        return sha256(self.file.read_bytes()).hexdigest()

    def info(self, study: str) -> BundleInfo:
        """``study``: the name of the study that is started from the bundle."""
        return BundleInfo.from_json(json.loads((self.folder / "server.json").read_text()), study)


def build_bundle(
    folder: Path,
    name: str,
    experiment: Experiment,
    shape: tuple[int, ...] = (),
    classes: tuple[str, ...] = (),
    dp_ready: bool = False,
) -> Bundle:
    """
    Build a bundle into ``folder/<name>``. ``shape`` and ``classes`` declare the schema where the coordinator has no rows
    from which to read it. ``dp_ready``: the model gets normalisation layers that work with differential privacy. Raises
    ConfigError.
    """
    if not EXPERIMENT_NAME.fullmatch(name):
        raise ConfigError(
            f"--name {name!r}: use small letters, digits and hyphens, at most 40, and a letter first"
        )
    study = plan_study(experiment, shape, classes, dp_ready)
    partition = study.trainer.partition
    if not any(map(partition.leaves, partition.roles)) or study.method.pool:
        raise ConfigError(
            f"method {experiment.method.name!r} shares no tensors between sites; it exists for comparison only"
        )
    labels = () if own_labels(study.method) else study.schema.union
    base = _base_hash(experiment)
    silo, schema = next(iter(study.schema.silos.items()))
    experiment = with_column_names(
        experiment, stored_name(experiment.data, silo), schema.shape, schema.columns
    )
    experiment = experiment.model_copy(update={"updates": _limited(experiment, dp_ready)})
    bundle = Bundle(folder.absolute() / name)
    if bundle.folder.exists():
        shutil.rmtree(bundle.folder)
    public = _write_public(bundle, study)
    agreement = make_agreement(experiment, study.schema.shape, labels, base, dp_ready, public)
    _write_app(bundle.folder / "app", name, agreement)
    write_bytes(bundle.file, pack_app(bundle.folder / "app"))
    shared, _ = study.trainer.partition.split(study.trainer.initial(study.schema.width))
    write_file(bundle.folder / "start.safetensors", lambda file: save_file(shared, file))
    write_json(bundle.folder / "server.json", _info(study, agreement, bundle).to_json())
    return bundle


def _write_public(bundle: Bundle, study: Study) -> str:
    """Write the public inputs that the plan needs next to the bundle, and return the hash of the file; "" where it needs none."""
    if study.trainer.public is None:
        return ""
    write_prepared(bundle.public, study.trainer.public)
    return bundle.public_hash


def plan_study(
    experiment: Experiment, shape: tuple[int, ...], classes: tuple[str, ...], dp_ready: bool
) -> Study:
    """Return the model and the method of a plan. ``shape`` (): the schema is that of the experiment's rows. Raises ConfigError."""
    check_deployment(experiment)
    if experiment.data.class_weights != "none" or experiment.data.focal:
        raise ConfigError(
            "data.class_weights and data.focal are not part of what sites agree to; remove them for a deployment"
        )
    if experiment.data.label_fraction != 1.0:
        raise ConfigError(
            "data.label_fraction is for simulations only; remove it: a site states in its silo.toml (data.unlabelled, data.missing_labels) "
            "which labels it uses"
        )
    if (experiment.data.unlabelled or experiment.data.missing_labels == "inputs") and dp_ready:
        raise ConfigError(
            "data.unlabelled or data.missing_labels, and --dp-ready: the accounting covers labelled rows only; remove one of them"
        )
    if experiment.request.transferability:
        check_question(experiment)
    schema = _declared_schema(experiment, shape, classes) if shape else read_data_schema(experiment)
    if dp_ready and experiment.privacy is None:
        experiment = experiment.model_copy(update={"privacy": DP_READY})
    study = build(experiment, NO_SHARED_STORE, NO_SHARED_STORE, "cpu", None, schema)
    if experiment.request.transferability:
        check_number(study)
    return study


def _declared_schema(experiment: Experiment, shape: tuple[int, ...], classes: tuple[str, ...]) -> DataSchema:
    local, task = own_labels(method_of(experiment.method)), experiment.data.predicted
    if classes and not task.has_classes:
        raise ConfigError(f'--classes: data.task = "{task.name}" does not use it; set data.classes')
    if task.has_classes and not (classes or local):
        raise ConfigError(
            f"method {experiment.method.name!r} shares the head, so its labels must be known: add --classes"
        )
    labels = (classes or ("0", "1")) if task.has_classes else ()
    inputs = tuple(name for column in declared_columns(experiment.data) for name in column.inputs)
    if len(shape) == 1 and len(inputs) != shape[0]:
        raise ConfigError(
            f"--shape {shape[0]} declares a table of {shape[0]} inputs, and its columns are "
            f"{', '.join(inputs) or 'not named'}; use --columns NAME,NAME,... instead of --shape"
        )
    return DataSchema({"schema": SiloSchema(shape, inputs, labels, frozenset(labels), 0)}, task=task)


def load_without_rows(name: str, overrides: Sequence[str], folder: Path) -> Experiment:
    """
    Return an experiment whose schema is declared, so that its ``data.path`` need not exist here. No row is read, and no path
    enters a bundle. ``folder``: one that exists, which stands in for it. Raises ConfigError.
    """
    table = read_experiment(name, overrides)
    data = table.setdefault("data", {})
    source = DATA.get(data.get("source", DataSettings().source))
    if source and source.needs_path and not (data.get("path") and Path(data["path"]).exists()):
        data["path"] = str(folder.absolute())
    return parse_experiment(table)


def _limited(experiment: Experiment, dp_ready: bool) -> UpdateSettings:
    """
    Return the limits of a plan. Where the experiment sets none, a plan with which sites can train privately counts every update the
    same, because row counts then stay at home, and another one counts at most ``MAX_WEIGHT`` rows.
    """
    own = experiment.updates
    if (dp_ready or experiment.privacy is not None) and "weights" not in own.model_fields_set:
        own = own.model_copy(update={"weights": "equal"})
    weight = MAX_WEIGHT if own.max_weight == "none" else own.max_weight
    norm = MAX_NORM if own.max_norm == "none" else own.max_norm
    return own.model_copy(update={"max_weight": weight, "max_norm": norm})


def _base_hash(experiment: Experiment) -> str:
    """Return the hash of the file of initial weights; "" where the experiment starts without one. Raises ConfigError."""
    model = experiment.model
    if model.pretrain_on or model.weights == "pretrained":
        key = "model.pretrain_on" if model.pretrain_on else 'model.weights = "pretrained"'
        raise ConfigError(
            f"{key}: every site of a federation must start from the same file; train it first and set model.weights to it"
        )
    return sha256_of(Path(model.weights)) if model.weights else ""


def _info(study: Study, agreement: Agreement, bundle: Bundle) -> BundleInfo:
    experiment = agreement.experiment
    step = server_of(experiment.method)
    if type(step) not in SERVER_STEPS.values():
        raise ConfigError(
            f"method {experiment.method.name!r} has a server step of its own, which a bundle cannot hold; use another method"
        )
    per_round = experiment.silos_per_round
    return BundleInfo(
        config=FederationConfig(
            study="",
            seed=experiment.seed,
            rounds=experiment.rounds,
            server=step,
            silos_per_round=None if per_round == "all" else per_round,
            minimum_silos=experiment.minimum_silos,
            wire=study.method.wire,
            limits=limits_of(experiment.updates),
        ),
        roles=study.trainer.partition.roles,
        bundle=bundle.hash,
        plan=agreement.hash,
        private=experiment.privacy is not None,
        verdict=experiment.request.verdict,
    )


def _write_app(app: Path, name: str, agreement: Agreement) -> None:
    for file, text in APP_FILES.items():
        write_bytes(app / file, text.encode())
    write_bytes(app / EXPERIMENTS_FOLDER / f"{name}.toml", agreement.dump().encode())
    write_bytes(app / "pyproject.toml", tomli_w.dumps(_project(name)).encode())


def _project(name: str) -> Mapping[str, Any]:
    app = {
        "publisher": "fedtl",
        "fab-include": [*APP_FILES, f"{EXPERIMENTS_FOLDER}/*.toml"],
        "components": {"serverapp": "server.app:app", "clientapp": "clients.app:app"},
        "config": {"experiment": name, "study": name},
    }
    project = {
        "name": name,
        "version": fedtl.__version__,
        "description": "A federated study with fedtl",
        "license": "Apache-2.0",
        "dependencies": [f"flwr=={FLOWER_VERSION}"],
    }
    return {"project": project, "tool": {"flwr": {"app": app}}}


def agreed(study: HostedStudy, plan: StudyPlan) -> tuple[Bundle, Agreement]:
    """Return the bundle of a study and its agreement. Raises ConfigError where the bundle was built again with another plan."""
    bundle = Bundle(study.path.parent.parent / "bundles" / plan.bundle_name)
    _, agreement = read_agreement(bundle.file.read_bytes(), str(bundle.file))
    if agreement.hash != plan.plan:
        raise ConfigError(f"{bundle.file} has another plan than the study; build it from the same settings")
    return bundle, agreement


def read_agreement(content: bytes, source: str) -> tuple[str, Agreement]:
    """
    Return the name and the agreement of the one experiment in a bundle. ``source``: what a message calls the bundle.
    Raises ConfigError.
    """
    check_bundle_contents(content)
    with zipfile.ZipFile(BytesIO(content)) as bundle:
        names = [name for name in bundle.namelist() if name.startswith(f"{EXPERIMENTS_FOLDER}/")]
        if len(names) != 1 or not names[0].endswith(".toml"):
            raise ConfigError(f"{source} has {len(names)} experiments; a bundle must have 1")
        try:
            table = tomllib.loads(bundle.read(names[0]).decode())
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{source}: {names[0]} is not TOML: {error}") from error
    return Path(names[0]).stem, validate(Agreement, table, source)
