"""
The app bundle: the two thin apps and one agreement, and nothing else; built twice, it has the same hash. Beside it
stays what the coordinator needs to begin: the first shared tensors, and what each of them is.
"""

import json
import shutil
import subprocess
import tomllib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import tomli_w
from safetensors.torch import save_file

import fedtl
from fedtl._util.files import write_bytes, write_file
from fedtl.data.columns import declared_columns
from fedtl.deployment import plan as agreement
from fedtl.deployment.bundle_contents import check_contents
from fedtl.deployment.flower_commands import environment, tool
from fedtl.deployment.plan import BARE, EXPERIMENTS, Agreement
from fedtl.deployment.site.site_plan import FORM, NOWHERE
from fedtl.errors import ConfigError
from fedtl.experiment.config.resolve import method_of, server_of
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.data_schema import DataSchema, SiloSchema, read_data_schema
from fedtl.experiment.study import Study, build
from fedtl.methods.server import ServerStep

FILES = ("server/__init__.py", "server/app.py", "clients/__init__.py", "clients/app.py")


@dataclass(frozen=True)
class Bundle:
    """A bundle at its coordinator: ``folder/app`` is its source, ``folder/<name>.fab`` what is sent."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.fab"

    @property
    def hash(self) -> str:
        return sha256(self.file.read_bytes()).hexdigest()

    @property
    def about(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / "server.json").read_text())
        return content


def bundle(
    folder: Path,
    name: str,
    experiment: Experiment,
    shape: tuple[int, ...] = (),
    classes: tuple[str, ...] = (),
    dp_ready: bool = False,
) -> Bundle:
    """
    Build it into ``folder/<name>``. ``shape`` and ``classes``: the schema, where the coordinator has no rows to read it
    from. Raises ConfigError.
    """
    if not BARE.fullmatch(name):
        raise ConfigError(f"--name {name!r}: small letters, digits and hyphens, 40 at most, a letter first")
    study = _study(experiment, shape, classes, dp_ready)
    if not any(map(study.trainer.partition.leaves, study.trainer.partition.roles)) or study.method.pool:
        raise ConfigError(f"method {experiment.method.name!r} is a yardstick: nobody can take part in it")
    labels = () if study.method.head_is_local else study.schema.union
    base = _base(experiment)
    first, sight = next(iter(study.schema.silos.items()))
    experiment = agreement.with_columns(experiment, first, sight.shape, sight.columns)
    its = agreement.agree(experiment, study.schema.shape, labels, base, dp_ready)
    folder = folder.absolute()
    place = folder / name
    if place.exists():
        shutil.rmtree(place)
    _stage(place / "app", name, its)
    made = Bundle(place)
    write_bytes(made.file, _built(place / "app", folder.parent))
    shared, _ = study.trainer.partition.split(study.trainer.initial(len(study.schema.union) or 1))
    write_file(place / "start.safetensors", lambda file: save_file(shared, file))
    write_bytes(place / "server.json", (json.dumps(_about(study, its, made), indent=1) + "\n").encode())
    return made


def _study(experiment: Experiment, shape: tuple[int, ...], classes: tuple[str, ...], dp_ready: bool) -> Study:
    head_is_local = method_of(experiment.method).head_is_local
    if shape:
        if not (classes or head_is_local or experiment.data.task == "regression"):
            raise ConfigError(f"method {experiment.method.name!r} shares the head: say --classes, too")
        labels = classes or ("0", "1")
        inputs = tuple(name for column in declared_columns(experiment.data) for name in column.inputs)
        if len(shape) == 1 and len(inputs) != shape[0]:
            raise ConfigError(
                f"--shape {shape[0]} is a table of {shape[0]} inputs, and its columns are "
                f"{', '.join(inputs) or 'not named'}; say --columns NAME,NAME,..., and leave --shape out"
            )
        sight = SiloSchema(shape, inputs, labels, frozenset(labels), 0)
        seen = DataSchema({"schema": sight})
    else:
        seen = read_data_schema(experiment)
    if dp_ready and experiment.privacy is None:
        experiment = experiment.model_copy(update={"privacy": FORM})
    return build(experiment, NOWHERE, NOWHERE, "cpu", None, seen)


def _base(experiment: Experiment) -> str:
    if experiment.model.pretrain_on or experiment.model.weights == "pretrained":
        raise ConfigError(
            "a bundle starts from nothing or from a file that every site has: train it first, then set model.weights"
        )
    return sha256(Path(experiment.model.weights).read_bytes()).hexdigest() if experiment.model.weights else ""


def _about(study: Study, its: Agreement, made: Bundle) -> dict[str, Any]:
    experiment = its.experiment
    server = server_of(experiment.method)
    if not isinstance(server, ServerStep):
        raise ConfigError(
            f"method {experiment.method.name!r}: its own server step cannot be put into a bundle"
        )
    per_round = experiment.silos_per_round
    return {
        "bundle": made.hash,
        "plan": its.hash,
        "private": experiment.privacy is not None,
        "seed": experiment.seed,
        "rounds": experiment.rounds,
        "silos_per_round": None if per_round == "all" else per_round,
        "minimum_silos": experiment.minimum_silos,
        "server": {"name": server.name, "share": server.share, "settings": dict(server.settings)},
        "roles": {key: str(role) for key, role in study.trainer.partition.roles.items()},
    }


def _stage(place: Path, name: str, its: Agreement) -> None:
    source = Path(fedtl.__file__).parents[1]
    if missing := [file for file in FILES if not (source / file).is_file()]:
        raise ConfigError(f"{source / missing[0]} is not there: bundles are built from a checkout of fedtl")
    for file in FILES:
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file, place / file)
    write_bytes(place / EXPERIMENTS / f"{name}.toml", its.dump().encode())
    write_bytes(place / "pyproject.toml", tomli_w.dumps(_project(name)).encode())


def _project(name: str) -> Mapping[str, Any]:
    included = [*FILES, f"{EXPERIMENTS}/*.toml"]
    app = {
        "publisher": "fedtl",
        "fab-include": included,
        "components": {"serverapp": "server.app:app", "clientapp": "clients.app:app"},
        "config": {"experiment": name, "study": name},
    }
    project = {
        "name": name,
        "version": fedtl.__version__,
        "description": "A federated study with fedtl",
        "license": "Apache-2.0",
        "dependencies": ["flwr==1.41.0"],
    }
    return {"project": project, "tool": {"flwr": {"app": app}}}


def _built(app: Path, server: Path) -> bytes:
    """By Flower's own builder. Raises ConfigError."""
    for old in app.parent.glob("*.fab"):
        old.unlink()
    done = subprocess.run(
        [tool("flwr"), "build", "--app", str(app)],
        cwd=app.parent,
        env=environment(server),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = list(app.parent.glob("*.fab"))
    if done.returncode or len(found) != 1:
        said = " ".join((done.stderr or done.stdout).replace("│", " ").split())
        raise ConfigError(f"flwr build failed: {said[-300:]}")
    content = found[0].read_bytes()
    found[0].unlink()
    return content


def agreement_in(content: bytes, at: str) -> tuple[str, Agreement]:
    """The one experiment in a bundle, by name. Raises ConfigError."""
    check_contents(content)
    with zipfile.ZipFile(BytesIO(content)) as packed:
        names = [name for name in packed.namelist() if name.startswith(f"{EXPERIMENTS}/")]
        if len(names) != 1 or not names[0].endswith(".toml"):
            raise ConfigError(f"{at} holds {len(names)} experiments; a bundle has one")
        try:
            table = tomllib.loads(packed.read(names[0]).decode())
        except ValueError as error:
            raise ConfigError(f"{at}: {names[0]} is not TOML: {error}") from error
    return Path(names[0]).stem, agreement.parse(table, at)
