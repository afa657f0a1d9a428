"""The features of new rows by a silo's model, for other programs: what the head would see."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedtl._util.files import write_file
from fedtl.data.preprocess import Inputs
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array
from fedtl.errors import ConfigError
from fedtl.experiment.new_inputs import prepared_inputs
from fedtl.experiment.predict import SiloModel
from fedtl.models.net import Shape
from fedtl.models.state import State
from fedtl.training.at_home import trainer_of
from fedtl.training.evaluate import features_of
from fedtl.training.nets import Use
from fedtl.training.trainer import Trainer

SUFFIXES = (".npz", ".parquet")


@dataclass(frozen=True)
class Embeddings:
    """
    Features ``vectors`` [N, D] (float32) of the rows ``ids`` [N]: row numbers, or file names. ``silo``: whose model made them, "" where
    that is not known; ``member``: which model of a mix; ``body``: the SHA-256 of its body. Features of another body cannot be compared with them.
    """

    vectors: Array
    ids: Array
    silo: str
    member: str
    body: str

    @property
    def about(self) -> dict[str, str]:
        return {"silo": self.silo, "model": self.member, "body_sha256": self.body}


@dataclass(frozen=True)
class Body:
    """
    What makes features: a model's ``state``, as ``trainer`` builds it with ``width`` outputs, and how its rows are read (``settings``)
    and prepared (``inputs``, ``shape``: of one input). ``silo`` and ``member``: as in ``Embeddings``. ``mix``: the names of all models,
    where the silo uses several.
    """

    trainer: Trainer
    state: State
    width: int
    inputs: Inputs
    shape: Shape
    settings: DataSettings
    silo: str
    member: str
    mix: tuple[str, ...] = ()


def body_of(model: SiloModel) -> Body:
    """Return the body of a silo's model or, of a mix, of its main model."""
    member = model.final.main
    trainer = trainer_of(member, model.trainer)
    read = (model.inputs, model.shape, model.experiment.data)
    mix = tuple(one.name for one in model.final.members)
    own = (model.silo, member.name, mix if len(mix) > 1 else ())
    return Body(trainer, member.state, model.data.width, *read, *own)


def embed(
    model: Body,
    x: Array,
    files: Sequence[str] = (),
    watch: Callable[[int, int], object] | None = None,
) -> Embeddings:
    """
    Return the features of rows as a source stores them. ``watch`` is called with how many rows are done, and of how many. Raises
    DataError.
    """
    inputs, trainer = prepared_inputs(x, model.inputs, model.shape), model.trainer
    net = trainer.net(model.width, Use.EVALUATION)
    net.load_state_dict(model.state)
    vectors = features_of(net, inputs, trainer.device, trainer.dtype, watch).numpy()
    ids = np.array(files) if files else np.arange(len(vectors))
    return Embeddings(vectors, ids, model.silo, model.member, body_hash(model.state))


def body_hash(state: State) -> str:
    """Return the SHA-256 of the body's tensors: their names in order, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        if name.startswith("body."):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def check_output(path: Path) -> None:
    """Raise ConfigError for a file of another kind, and for Parquet without pyarrow, before anything is computed."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"--out: {path} must end in {' or '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f'--out: {path} needs pyarrow; install "fedtl[parquet]", or name a .npz file'
            ) from error


def write_embeddings(path: Path, made: Embeddings) -> None:
    """
    Write an .npz with the arrays ``embedding`` [N, D], ``id`` [N] and one text each of ``about``, none of them pickled; or a .parquet
    with the columns id, e0, e1, ... and ``about`` as the attributes of the pandas DataFrame.
    """
    write_file(path, lambda new: _npz(new, made) if path.suffix == ".npz" else _parquet(new, made))


def _npz(path: Path, made: Embeddings) -> None:
    silo, model, body = (np.array(text) for text in made.about.values())
    with path.open("wb") as file:
        np.savez(file, embedding=made.vectors, id=made.ids, silo=silo, model=model, body_sha256=body)


def _parquet(path: Path, made: Embeddings) -> None:
    import pandas as pd

    columns = [f"e{number}" for number in range(made.vectors.shape[1])]
    table = pd.DataFrame(made.vectors, columns=columns)
    table.insert(0, "id", made.ids)
    table.attrs = made.about
    table.to_parquet(path, index=False, engine="pyarrow")
