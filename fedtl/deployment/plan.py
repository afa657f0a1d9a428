"""
What a federation agrees on before anything runs, as a file: the experiment without anybody's data, and the schema
that the data of all must fit. It travels inside the app bundle; its hash is what a steward signs.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import Field, ValidationError

from fedtl._util.settings import Settings
from fedtl.data import table
from fedtl.data.settings import AGREED, DataSettings, Name
from fedtl.errors import ConfigError, Denied
from fedtl.experiment.config.messages import short
from fedtl.experiment.config.schema import Experiment
from fedtl.federation.policy import Code

LARGEST = 1 << 20  # bytes of a file; a real one has a few thousand
EXPERIMENTS = "experiments"  # the folder in a bundle
BARE = re.compile(r"[a-z][a-z0-9-]{0,39}")  # what names an experiment, and Flower an app


class Agreement(Settings):
    """
    ``shape``: of one input, after resizing. ``classes``: the labels of a shared head; a head of one's own has its
    own. ``base``: the hash of the file of first weights, where there is one. ``dp_ready``: the model has norms that
    private training can take; always so where the experiment has ``[privacy]``.
    """

    experiment: Experiment
    shape: list[int] = Field(min_length=1, max_length=3)
    classes: list[Name] = Field([], max_length=100_000)
    base: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    dp_ready: bool = False

    @property
    def hash(self) -> str:
        return sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()

    def dump(self) -> str:
        """TOML that ``load`` turns into the same agreement."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))


def with_columns(
    experiment: Experiment, silo: str, shape: tuple[int, ...], found: tuple[str, ...]
) -> Experiment:
    """
    A table's experiment with its columns by name: where ``data.columns`` does not list them, those of the ``silo`` whose
    inputs are called ``found``. Columns that have no names stay so.
    """
    data = experiment.data
    if len(shape) != 1 or data.columns or found == tuple(map(str, range(shape[0]))):
        return experiment
    names = table.input_columns(data, silo) if data.source == "table" else list(found)
    return experiment.model_copy(update={"data": data.model_copy(update={"columns": names})})


def agree(
    experiment: Experiment, shape: tuple[int, ...], classes: tuple[str, ...], base: str, dp_ready: bool
) -> Agreement:
    """The agreement on an experiment: its own data, engine and silos are nobody else's concern."""
    data = DataSettings(**{key: getattr(experiment.data, key) for key in AGREED})
    model = experiment.model.model_copy(update={"weights": "", "pretrain_on": []})
    kept = ("seed", "rounds", "silos_per_round", "minimum_silos", "request", "train", "method", "privacy")
    common = Experiment(**{key: getattr(experiment, key) for key in kept}, data=data, model=model)
    return Agreement(
        experiment=common,
        shape=list(shape),
        classes=list(classes),
        base=base,
        dp_ready=dp_ready or experiment.privacy is not None,
    )


def in_bundle(folder: Path, asked: Mapping[str, Any]) -> Path:
    """
    The agreement's file in an unpacked bundle. ``asked``: what the server sets with each run, which is a study's name
    and which experiment of the bundle is meant; anything else is refused. Raises Denied.
    """
    if odd := sorted(set(asked) - {"experiment", "study"}):
        raise Denied(Code.PLAN, f"the server sets {odd[0][:40]!r} for the run; there is no such setting")
    name = asked.get("experiment")
    path = folder / EXPERIMENTS / f"{name}.toml"
    if not isinstance(name, str) or not BARE.fullmatch(name) or not path.is_file():
        raise Denied(
            Code.PLAN, f"the server asks for experiment {str(name)[:40]!r}, which is not in the bundle"
        )
    return path


def load(path: Path) -> Agreement:
    """Raises ConfigError, in one line."""
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigError(f"{path} has more than {LARGEST:,} bytes; that is no agreement")
        return parse(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def parse(content: dict[str, Any], at: str) -> Agreement:
    try:
        return Agreement.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{at}: {place} = {short(first['input'])}: {first['msg']}") from error
