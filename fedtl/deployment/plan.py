"""
The agreement: what all sites of a federation agree on before anything runs. It holds the experiment without the
sites' data, and the schema that the rows of every site must have. It is a file in the app bundle, and its hash is signed.
"""

import json
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import Field

from fedtl._util.files import sha256_of
from fedtl._util.settings import Settings
from fedtl.data import table
from fedtl.data.columns import columns_of_inputs
from fedtl.data.settings import AGREED, ELSEWHERE, NOISE, DataSettings, Name
from fedtl.errors import ConfigError, Denied
from fedtl.experiment.config.known_tasks import check_deployment
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.config.settings_file import read_toml, validate
from fedtl.federation.policy import Code
from fedtl.models.folder_files import CONFIG, TOKENIZER, folder_file, is_folder_name, shown_name

MAX_AGREEMENT_BYTES = 1 << 20  # typical: a few thousand
EXPERIMENTS_FOLDER = "experiments"  # in a bundle
AGREED_TABLES = (
    *("seed", "rounds", "silos_per_round", "minimum_silos", "request"),
    *("train", "method", "wire", "updates", "privacy"),
)  # of an experiment, besides [data] and [model]
EXPERIMENT_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")  # also the name of the Flower app


class Agreement(Settings):
    """
    ``config`` and ``tokenizer``: the SHA-256 of config.json and tokenizer.json of a model of text, "" for others: each site has its own
    copies, and the name of the model says nothing of the machine of the coordinator. ``shape``: of one input, after resizing. ``classes``: the labels of a shared head; empty where each site has a head of
    its own. ``base``: the SHA-256 of the file of initial weights, "" without one. ``public``: that of the file of public inputs, "" without one. ``dp_ready``: every normalisation layer
    of the model works with differential privacy; always true for an experiment with ``[privacy]``.
    """

    experiment: Experiment
    shape: list[int] = Field(min_length=1, max_length=4)
    classes: list[Name] = Field([], max_length=100_000)
    base: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    public: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    config: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    tokenizer: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    dp_ready: bool = False

    @property
    def files(self) -> dict[str, str]:
        """The SHA-256 of each file that a site needs a copy of."""
        named = {
            "weights": self.base,
            "public inputs": self.public,
            CONFIG: self.config,
            TOKENIZER: self.tokenizer,
        }
        return {name: digest for name, digest in named.items() if digest}

    @property
    def hash(self) -> str:
        return sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()

    def dump(self) -> str:
        """Return TOML from which ``load_agreement`` makes the same agreement."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))


def with_column_names(
    experiment: Experiment, silo: str, shape: tuple[int, ...], inputs: tuple[str, ...]
) -> Experiment:
    """
    Return the experiment of a table, or of series, with ``data.columns`` set. Where it was not set, the columns are those of ``silo``,
    whose name is that in the source and whose ``inputs`` have these names. Columns that only have positions as names are not listed.
    """
    data = experiment.data
    if len(shape) > 2 or data.columns or inputs == tuple(map(str, range(shape[0]))):
        return experiment
    names = table.input_columns(data, silo) if data.source == "table" else columns_of_inputs(inputs, data)
    return experiment.model_copy(update={"data": data.model_copy(update={"columns": names})})


def make_agreement(
    experiment: Experiment,
    shape: tuple[int, ...],
    classes: tuple[str, ...],
    base: str,
    dp_ready: bool,
    public: str = "",
) -> Agreement:
    """
    Return the agreement on an experiment, without its data, engine and silos, which concern the coordinator alone. Raises
    ConfigError for what only a simulation can do.
    """
    if experiment.train.patience:
        raise ConfigError(
            f"train.patience = {experiment.train.patience}: the losses on a site's validation rows stay at the site, so a federation of "
            "institutions cannot stop early by them; remove train.patience"
        )
    if experiment.request.verdict and experiment.privacy is not None:
        raise ConfigError(
            "request.verdict and [privacy]: a verdict follows from a site's test rows without noise; remove one of them"
        )
    name, tokenizer = experiment.model.name, experiment.data.tokenizer
    from fedtl.experiment.pixels import (
        with_pixels,  # here, because it needs torch, and idle processes of a site do not
    )

    model = with_pixels(experiment.model, shape, None)
    model = model.model_copy(update={"name": shown_name(name), "weights": "", "pretrain_on": []})
    agreed = {key: getattr(experiment, key) for key in AGREED_TABLES}
    common = Experiment(**agreed, data=_agreed_data(experiment), model=model)
    return Agreement(
        experiment=common,
        shape=list(shape),
        classes=list(classes),
        base=base,
        public=public,
        config=_hash_of(folder_file(name, CONFIG)) if is_folder_name(name) else "",
        tokenizer=_hash_of(Path(tokenizer)) if tokenizer else "",
        dp_ready=dp_ready or experiment.privacy is not None,
    )


def _hash_of(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def _agreed_data(experiment: Experiment) -> DataSettings:
    """Return what a plan says of ``[data]``. The name of the tokenizer has no folder, and makes the plan's columns those of tokens."""
    own = experiment.data
    named = TOKENIZER if own.tokenizer else ""
    agreed = {key: getattr(own, key) for key in AGREED}
    return DataSettings(**agreed, public=_agreed_public(experiment), tokenizer=named)


def _agreed_public(experiment: Experiment) -> list[str]:
    """Return ``data.public`` of a plan: random inputs as they are said, since each site can make them, and others as a file elsewhere."""
    entries = experiment.data.public
    return entries if all(entry.startswith(f"{NOISE}:") for entry in entries) else [ELSEWHERE]


def agreement_file(folder: Path, run_config: Mapping[str, Any]) -> Path:
    """
    Return the agreement's file in an unpacked bundle. ``run_config``: what the server sets for the run: the names of the
    study and of the bundle's experiment. Raises Denied for any other key, and for an experiment that is not in the bundle.
    """
    if unknown := sorted(set(run_config) - {"experiment", "study"}):
        raise Denied(
            Code.PLAN,
            f"the server sets {unknown[0][:40]!r} for this run; it may set only experiment and study",
        )
    name = run_config.get("experiment")
    path = folder / EXPERIMENTS_FOLDER / f"{name}.toml"
    if not isinstance(name, str) or not EXPERIMENT_NAME.fullmatch(name) or not path.is_file():
        raise Denied(
            Code.PLAN, f"the server asks for experiment {str(name)[:40]!r}, which is not in the bundle"
        )
    return path


def load_agreement(path: Path) -> Agreement:
    """Return the agreement in a file. Raises ConfigError."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if size > MAX_AGREEMENT_BYTES:
        raise ConfigError(
            f"{path} has {size:,} bytes; an agreement has at most {MAX_AGREEMENT_BYTES:,} bytes"
        )
    agreement = validate(Agreement, read_toml(path), str(path))
    check_deployment(agreement.experiment)
    return agreement
