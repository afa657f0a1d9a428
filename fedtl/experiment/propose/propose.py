"""``fedtl new``: look at a folder of data, propose an experiment, and check that it can be run before it is written."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedtl._util.files import write_bytes
from fedtl.errors import ConfigError
from fedtl.experiment.columns import comparison_columns
from fedtl.experiment.config.load import load_experiment, merge_settings, overriding, parse_experiment
from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.data_notes import data_notes
from fedtl.experiment.lint.dry_run import examine
from fedtl.experiment.propose.arrays import array_guesses, picture_guesses, size_guesses
from fedtl.experiment.propose.guess import Guess, nested
from fedtl.experiment.propose.layout import Layout, look_at
from fedtl.experiment.propose.tables import table_guesses
from fedtl.experiment.propose.training import read_rows, training_guesses
from fedtl.experiment.propose.written import commented_toml
from fedtl.simulation.shared_store import temporary_store

FILE = "experiment.toml"


@dataclass(frozen=True)
class Proposal:
    """``guesses``: in the order in which they are read; ``settings``: the plain values; ``notes``: on the rows, as ``fedtl data`` prints them."""

    guesses: tuple[Guess, ...]
    settings: Mapping[str, Any]
    notes: tuple[str, ...]


def propose(data: Path, changes: Sequence[str] = ()) -> Proposal:
    """
    Return an experiment that fits a folder or file of rows. ``changes``: KEY=VALUE that a person has set, which no guess replaces. Reads
    all rows, and trains nothing. Raises ConfigError or DataError, in one line, where something cannot be guessed or would be refused.
    """
    given = overriding(changes)
    set_data = given.get("data", {})
    if set_data.keys() & {"source", "path"}:
        raise ConfigError("--set data.source and data.path: name the data with --data")
    if given.keys() & {"privacy", "silo"}:
        raise ConfigError(
            "--set privacy: what fedtl new proposes is learned from all rows, without noise, and so breaks a guarantee; write [privacy] into a "
            "file whose columns, categories, labels and sizes are declared from what is public"
        )
    layout = look_at(data)
    guesses = [_source(layout), *_data_guesses(layout, set_data)]
    proposed = merge_settings(nested(guesses), given)
    read = read_rows(proposed["data"])
    guesses += training_guesses(read)
    settings = merge_settings(nested(guesses), given)
    experiment = parse_experiment(settings)
    comparison_columns(experiment)
    with temporary_store() as store:
        examined = examine(experiment, store)
    if examined.refused:
        raise ConfigError(examined.refused[0])
    notes = data_notes(experiment, method_of(experiment.method), examined.study.schema)
    return Proposal(tuple(_as_set(guess, given) for guess in guesses), settings, tuple(notes))


def write_proposal(proposal: Proposal, data: Path, folder: Path) -> Path:
    """Write the file, which ``fedtl data``, ``show`` and ``compare`` take. Raises ConfigError where there is one."""
    path = free_path(folder)
    title = f"Does joining help the silos of {data.name or data.absolute().name}? Proposed by fedtl new; change what is wrong."
    text = commented_toml(proposal.settings, proposal.guesses, title, folder)
    write_bytes(path, text.encode())
    try:
        load_experiment(str(path))
    except ConfigError:
        path.unlink()
        raise
    return path


def free_path(folder: Path) -> Path:
    """Return the path of the file to be written. Raises ConfigError where it exists."""
    path = folder / FILE
    if path.exists():
        raise ConfigError(
            f"{path} exists, and fedtl new overwrites nothing; name another folder, or move the file away"
        )
    return path


def _source(layout: Layout) -> Guess:
    why = (
        "folders of image files" if layout.source == "images" else "a folder that Dataset.save_to_disk wrote"
    )
    if layout.files and not layout.manifest:
        why = f"{len(layout.files)} {layout.files[0].suffix.lower()} file{'s' * (len(layout.files) > 1)}"
    settings = {"data.source": layout.source, "data.path": str(layout.path.absolute())}
    return Guess("source", layout.source, why, settings=settings)


def _data_guesses(layout: Layout, given: Mapping[str, Any]) -> Iterator[Guess]:
    if layout.source == "npz":
        yield from array_guesses(layout, given)
    elif layout.source == "images" and not layout.manifest:
        yield from picture_guesses(layout, given)
    else:
        yield from table_guesses(layout, given)
        if layout.source == "images":
            yield from size_guesses(layout, given)


def _as_set(guess: Guess, given: Mapping[str, Any]) -> Guess:
    """Return a guess without the settings that a person has set."""
    own = {path: value for path, value in guess.settings.items() if not _is_set(path, given)}
    if (
        guess.settings and not own and "as set" not in guess.why
    ):  # a guess that follows what was set keeps its words
        return Guess(guess.topic, "as set", ", ".join(guess.settings))
    return replace(guess, settings=own)


def _is_set(path: str, given: Mapping[str, Any]) -> bool:
    table: Any = given
    for part in path.split("."):
        if not isinstance(table, Mapping) or part not in table:
            return False
        table = table[part]
    return True
