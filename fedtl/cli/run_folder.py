"""The run folder of a command: created, opened or resumed; its report; and what happens to it when the command fails."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fedtl.errors import ConfigError

if TYPE_CHECKING:
    from fedtl.experiment.config.schema import Experiment
    from fedtl.experiment.run_folder import RunFolder

Command = Literal["run", "compare", "audit", "transferability"]


@dataclass
class _State:
    """The folder that this process works in, for the message of an interrupted command."""

    resume_with: str = ""
    created: "RunFolder | None" = None
    note: str = ""


_state = _State()


def discard_created() -> bool:
    """Remove the folder that this command created, if nothing was trained; return whether it was removed."""
    created, _state.created = _state.created, None
    return created is not None and created.discard_untouched()


def nothing_is_kept() -> None:
    """Note that this command writes its files at the end, so that an interrupted one leaves nothing."""
    _state.note = "nothing was written"


def only_watches() -> None:
    """Note that this command shows what others do, so that Ctrl-C ends nothing else."""
    _state.note = "the run that was watched continues"


def interrupted_note() -> str:
    """Return what an interrupted command leaves, after removing a folder that holds nothing."""
    if _state.note:
        return _state.note
    return "nothing was trained yet" if discard_created() else f"the work so far is kept{resume_hint()}"


def resume_hint() -> str:
    """Return how to continue the interrupted command; empty if there is nothing to continue."""
    return f"; continue with: {_state.resume_with}" if _state.resume_with else ""


def begin(
    command: Command,
    name: str | None,
    overrides: list[str] | None,
    out: Path | None,
    resume: Path | None,
    workers: int | None,
) -> tuple["Experiment", "RunFolder"]:
    """Return the settings and the folder of a new run, or with ``resume`` of an interrupted one. Raises ConfigError."""
    from fedtl.experiment.config.load import with_changes

    if resume is None:
        settings, folder = _create(command, name, overrides or [], out)
    elif overrides or out or name:
        raise ConfigError("do not pass EXP, --set or --out together with --resume")
    else:
        settings, folder = _open(resume)
    _state.resume_with = f"fedtl {'run' if command == 'audit' else command} --resume {folder.path}"
    if workers is not None:
        settings = with_changes(settings, engine=settings.engine.model_copy(update={"workers": workers}))
    return settings, folder


def _open(path: Path) -> tuple["Experiment", "RunFolder"]:
    from fedtl.experiment.run_folder import RunFolder

    folder = RunFolder.open(path)
    return folder.experiment(), folder


def _create(
    command: Command, name: str | None, overrides: list[str], out: Path | None
) -> tuple["Experiment", "RunFolder"]:
    from fedtl.experiment.config.load import load_experiment
    from fedtl.experiment.run_folder import RunFolder

    if name is None:
        raise ConfigError(f"fedtl {command} needs an experiment: a TOML file, or digits")
    settings = load_experiment(name, overrides)
    if command == "compare":
        from fedtl.experiment.columns import comparison_columns

        comparison_columns(settings)  # raises ConfigError for an unknown method
    elif command == "transferability":
        from fedtl.experiment.transfer.transferability import check_question

        check_question(settings)
    label = settings.method.name if command == "run" else command
    path = out or Path("runs") / f"{Path(name).stem}-{label}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = RunFolder(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        _state.created = folder  # set before the folder is created, because Ctrl-C may come in between
    RunFolder.create(path, settings)
    return settings, folder
