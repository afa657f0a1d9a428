"""Inputs that ``data.public`` declares public: every silo and the server may see them. Their labels are not used."""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedtl._util.files import write_file
from fedtl._util.randomness import numpy_generator
from fedtl.data import prepare
from fedtl.data.input_files import read_inputs
from fedtl.data.preprocess import Inputs, fit_inputs
from fedtl.data.settings import ELSEWHERE, NOISE, PREPARED
from fedtl.data.splits import at_random
from fedtl.data.synthetic import noise
from fedtl.errors import ConfigError, DataError
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.data_schema import DataSchema
from fedtl.methods.public import server_reads, silos_read
from fedtl.models.roles import Role
from fedtl.training.batches import to_inputs
from fedtl.training.trainer import Trainer


def public_inputs(experiment: Experiment, schema: DataSchema) -> Tensor | None:
    """
    Return the inputs [N, ...] of all entries of ``data.public`` in order, as a silo's are prepared; None without entries. Of an
    entry at most ``data.limit`` are used. Where the scale is learned, each entry has constants of its own. Raises ConfigError or DataError.
    """
    if ELSEWHERE in experiment.data.public:
        return None
    parts = [_inputs_of(experiment, schema, entry) for entry in experiment.data.public]
    for entry, part in zip(experiment.data.public, parts, strict=True):
        if part.shape[1:] != schema.shape:
            raise DataError(
                f"data.public: the inputs of {entry!r} have shape {tuple(part.shape[1:])}, the silos' {schema.shape}; "
                "set data.size and data.channels, or data.columns"
            )
    if len({part.dtype for part in parts}) > 1:  # pixels as 0..255, and numbers
        parts = [to_inputs(part, torch.device("cpu")).contiguous() for part in parts]
    return torch.cat(parts) if parts else None


def _inputs_of(experiment: Experiment, schema: DataSchema, entry: str) -> Tensor:
    kind, _, rest = entry.partition(":")
    if kind == NOISE and rest:
        return noise(int(rest), schema.shape)
    if kind == PREPARED and rest:
        return _read_prepared(Path(rest))
    settings, columns = experiment.data, next(iter(schema.silos.values())).columns
    if rest:
        known = Inputs.unscaled(settings, columns)
        x = read_inputs(Path(rest), settings, known, schema.shape, "data.public").x
    else:
        raw = prepare.read_silo(settings, entry)
        x, columns = raw.train.x, raw.columns
    if settings.limit and len(x) > settings.limit:
        drawn, _ = at_random(len(x), settings.limit, numpy_generator("public", experiment.split_seed, entry))
        x = x[drawn]
    unlabelled = settings.model_copy(update={"task": "classification"})  # there are no labels to scale
    return torch.from_numpy(fit_inputs(x, x[:0], columns, unlabelled, entry).apply(x))


def _read_prepared(path: Path) -> Tensor:
    """Return the inputs in a file that ``write_prepared`` wrote. Raises DataError."""
    try:
        x = load_file(path)["x"]
    except (OSError, SafetensorError, KeyError) as error:
        raise DataError(f"data.public: {path} is not a file of prepared inputs: {error}") from error
    if (
        x.dtype not in (torch.uint8, torch.float32)
        or x.dim() < 2
        or (x.is_floating_point() and not x.isfinite().all())
    ):
        raise DataError(
            f"data.public: {path} has inputs of {x.dtype} and shape {list(x.shape)}, or not finite ones"
        )
    return x


def write_prepared(path: Path, x: Tensor) -> None:
    """Write inputs [N, ...] as a net takes them."""
    write_file(path, lambda file: save_file({"x": x.contiguous()}, file))


def public_notes(experiment: Experiment, trainer: Trainer) -> Iterator[str]:
    """Yield a note that says who reads the public inputs."""
    if trainer.public is None:
        return
    reading = {"the server": server_reads(trainer.method), "every silo": silos_read(trainer.method)}
    readers = [name for name, reads in reading.items() if reads]
    read = f"they are read by {' and '.join(readers)}" if readers else "nothing reads them"
    yield (
        f"data.public: {len(trainer.public):,} inputs of {', '.join(experiment.data.public)} are declared public; with method "
        f"{experiment.method.name}, {read}; their labels are never read"
    )


def check_server(experiment: Experiment, trainer: Trainer) -> None:
    """Raise ConfigError where the server has to run the silos' models, but some of their tensors stay at the silos."""
    if not server_reads(trainer.method):
        return
    roles, leaves = trainer.loop.roles, trainer.partition.leaves
    if staying := [name for name, role in roles.items() if role is not Role.COUNT and not leaves(name)]:
        raise ConfigError(
            f"method {experiment.method.name!r}: the server runs each silo's model on public inputs, but {staying[0]} stays at the "
            "silo; remove method.cut, train.roles and model.adapters, and share every role"
        )
