"""Inputs that ``data.public`` declares public: every silo and the server may see them. Their labels are not used."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from fedtl._util.randomness import numpy_generator
from fedtl.data import prepare
from fedtl.data.input_files import read_inputs
from fedtl.data.preprocess import Inputs, fit_inputs
from fedtl.data.settings import NOISE
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
