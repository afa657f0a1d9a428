"""The studies of a coordinator: start, queue, resume and stop."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from fedtl._util.files import append_durably, folder_is_locked, lock_folder, write_bytes
from fedtl.deployment.coordinator.asking import asked_until, end_rest, occupies_sites, rests_until
from fedtl.deployment.coordinator.bundle import Bundle
from fedtl.deployment.coordinator.reply_size import tensor_bytes
from fedtl.deployment.coordinator.settings import ServerSettings, load_server_settings
from fedtl.deployment.coordinator.sites import check_name, register_sites
from fedtl.deployment.coordinator.study import QUEUED_FILE, STOPPED_FILE, HostedStudy
from fedtl.deployment.coordinator.study_files import StudyPlan
from fedtl.deployment.coordinator.superlink import NoAnswer, SuperLink
from fedtl.deployment.coordinator.unended import damage, unended_studies
from fedtl.errors import ConfigError
from fedtl.models.state import State

log = logging.getLogger(__name__)
START_SECONDS = 120.0  # that a ServerApp may take until it holds the lock of its study


def resume_studies(folder: Path) -> None:
    """Once the SuperLink runs: register the admitted sites, and resume every study that was interrupted."""
    SuperLink(folder).wait_until_healthy()
    register_sites(folder)
    for study in studies_to_resume(folder):
        if rests_until(study) is None:
            try:
                resume_study(folder, study)
            except NoAnswer as error:
                log.warning("study %s is resumed in %g s: %s", study.path.name, START_SECONDS, error)
                return  # StudyWatch resumes this one and those after it


def studies_to_resume(folder: Path) -> list[HostedStudy]:
    """
    Return the studies that were started and are neither stopped nor queued, and whose rounds are not done, or whose sites are still asked
    whether joining helped. One with a damaged file is not among them.
    """
    return [
        one
        for one in unended_studies(folder)
        if not (one.path / QUEUED_FILE).exists()
        and not damage(one)
        and (not one.done or asked_until(one) is not None)
    ]


def studies_before(folder: Path) -> list[HostedStudy]:
    """Return the studies for whose end a queued one waits."""
    return [study for study in studies_to_resume(folder) if occupies_sites(study)]


def start_next(folder: Path) -> HostedStudy | None:
    """
    Start the study that has waited longest where no other one runs, and return it. One that cannot be started is stopped. Raises NoAnswer;
    then the study still waits.
    """
    if not _queued(folder):
        return None
    with lock_folder(folder / "studies"):
        waiting = _queued(folder)
        if not waiting or studies_before(folder):
            return None
        study = waiting[0]
        with _stopped_where_refused(study):
            if not _note_lost_runs(folder, study):
                _submit(folder, _bundle(folder, study), study)
        (study.path / QUEUED_FILE).unlink()
        return study


def _queued(folder: Path) -> list[HostedStudy]:
    """Return the studies that wait for another one to end, in the order in which they were queued; none with a damaged file."""
    queued = [one for one in unended_studies(folder) if (one.path / QUEUED_FILE).exists() and not damage(one)]
    return sorted(queued, key=lambda study: study.queued_since or 0.0)


def resume_study(folder: Path, study: HostedStudy) -> None:
    """
    Start a new Flower run of a study whose ServerApp has ended; stop the study where that cannot be done. Raises NoAnswer, after which it
    can be resumed again.
    """
    try:  # End the crashed run, so that no site waits for the rest of one of its messages.
        _note_lost_runs(folder, study)
        _end_last_run(folder, study)
    except NoAnswer:
        raise
    except ConfigError:  # it has ended already
        pass
    with _stopped_where_refused(study):
        _submit(folder, _bundle(folder, study), study)


@contextmanager
def _stopped_where_refused(study: HostedStudy) -> Iterator[None]:
    """Stop the study where its start fails, so that the other ones continue; but not where the SuperLink does not answer, which may pass."""
    try:
        yield
    except NoAnswer:
        raise
    except (ConfigError, OSError) as error:
        write_bytes(study.path / STOPPED_FILE, f"{error}\n".encode(), private=True)


def _bundle(folder: Path, study: HostedStudy) -> Bundle:
    return Bundle(folder / "bundles" / study.plan.bundle_name)


def start_study(folder: Path, bundle_name: str, study_name: str, now: bool = False) -> HostedStudy:
    """
    Start a study, or resume it after its last finished round. While another study runs it is queued, unless ``now``. Raises
    ConfigError, also where the study runs, or was started less than ``START_SECONDS`` ago.
    """
    settings, bundle = load_server_settings(folder), Bundle(folder / "bundles" / bundle_name)
    if not bundle.file.is_file():
        names = sorted(path.name for path in (folder / "bundles").glob("*"))
        raise ConfigError(
            f"there is no bundle {bundle_name!r}; there are: {', '.join(names)}"
            if names
            else f"there is no bundle {bundle_name!r}; build it: fedtl server bundle {folder} EXP.toml"
        )
    plan = _plan(bundle, check_name(study_name), settings)
    if not SuperLink(
        folder
    ).healthy:  # before a folder of the study is made, whose end `server watch` would wait for
        raise ConfigError(f"no SuperLink runs for {folder}; start it: fedtl server run {folder}")
    study = HostedStudy.create(folder / "studies" / study_name, plan, _start_tensors(bundle))
    if study.done and asked_until(study) is None:
        raise ConfigError(f"study {study_name!r} is done; its result is in {study.path}")
    register_sites(folder)
    with lock_folder(folder / "studies"):
        others = [other for other in studies_before(folder) if other != study]
        _check_not_running(folder, study)
        if others and not now:
            _check_bundle(bundle, study)
            if not (study.path / QUEUED_FILE).exists():  # otherwise it would lose its place in the queue
                write_bytes(study.path / QUEUED_FILE, f"{time.time()}\n".encode(), private=True)
            (study.path / STOPPED_FILE).unlink(missing_ok=True)
        else:
            _submit(folder, bundle, study)
            (study.path / QUEUED_FILE).unlink(missing_ok=True)
    return study


def _check_not_running(folder: Path, study: HostedStudy) -> None:
    """Raise ConfigError where a ServerApp runs the study, or a run of it began so recently that its ServerApp may not hold the lock yet."""
    name = study.path.name
    stop = f"to stop it: fedtl server stop {folder} --study {name}"
    if is_at_work(study):
        raise ConfigError(f"study {name!r} is running; {stop}")
    run, now = _last_run(study), time.time()
    begins = study in studies_to_resume(folder) and rests_until(study) is None
    if run and begins and 0 <= now - run.at < START_SECONDS:
        raise ConfigError(
            f"study {name!r} was started {now - run.at:.0f} s ago and may take {START_SECONDS:g} s to begin; {stop}"
        )


def _plan(bundle: Bundle, study_name: str, settings: ServerSettings) -> StudyPlan:
    try:
        info = bundle.info(study_name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{bundle.folder / 'server.json'} is not the description of a bundle: {error!r}; build the bundle again"
        ) from error
    return StudyPlan(
        config=info.config,
        roles=info.roles,
        bundle_name=bundle.name,
        deadline=settings.deadline,
        tries=settings.tries,
        grace=settings.grace,
        bundle=info.bundle,
        plan=info.plan,
        private=info.private,
        verdict=info.verdict,
        ask_again=settings.ask_again,
        verdict_days=settings.verdict_days,
    )


def _start_tensors(bundle: Bundle) -> State:
    """Return the first shared tensors. Raises ConfigError for a damaged file."""
    path = bundle.folder / "start.safetensors"
    tensor_bytes(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path} is not a file of tensors: {error}; build the bundle again") from error


def _submit(folder: Path, bundle: Bundle, study: HostedStudy) -> None:
    """Start a new Flower run of a study. Its ServerApp waits until an earlier one has ended. Raises ConfigError."""
    _check_bundle(bundle, study)
    (study.path / STOPPED_FILE).unlink(missing_ok=True)
    end_rest(study)
    config = {"study": study.path.name, "experiment": bundle.name}
    _note_run(study, SuperLink(folder).start_run(bundle.file.read_bytes(), config))


def _note_run(study: HostedStudy, run: int) -> None:
    line = json.dumps({"run": str(run), "at": time.time()})
    append_durably(
        study.path / "runs.jsonl", f"\n{line}\n", private=True
    )  # the line before it may be incomplete


def _note_lost_runs(folder: Path, study: HostedStudy) -> bool:
    """
    Note the runs of a study that the SuperLink has started although its answer did not come, so that they can be stopped. Return whether
    there are some. Raises NoAnswer.
    """
    known = {run.number for run in _runs(study)}
    lost = [run for run in SuperLink(folder).unfinished_runs(study.path.name) if run not in known]
    for run in lost:
        _note_run(study, run)
    return bool(lost)


def _check_bundle(bundle: Bundle, study: HostedStudy) -> None:
    """Raise ConfigError where the bundle is not the one from which the study began, or where the limits of replies do not count it."""
    tensor_bytes(bundle.folder / "start.safetensors")
    if bundle.hash != study.plan.bundle:
        raise ConfigError(
            f"bundle {bundle.name!r} was built again after study {study.path.name!r} began; choose another --study NAME"
        )


def stop_study(folder: Path, study_name: str) -> None:
    """Stop a study, or asking the sites of one that is done; ``start_study`` resumes it. Raises ConfigError."""
    study = HostedStudy(folder / "studies" / study_name)
    if not (study.path / "plan.json").is_file():
        raise ConfigError(f"there is no study {study_name!r} in {folder / 'studies'}")
    write_bytes(study.path / STOPPED_FILE, b"by the coordinator\n", private=True)
    if study.queued_since is None and rests_until(study) is None:
        _note_lost_runs(folder, study)
        _end_last_run(folder, study)
    (study.path / QUEUED_FILE).unlink(missing_ok=True)


def _end_last_run(folder: Path, study: HostedStudy) -> None:
    """End the study's last Flower run. Raises ConfigError where it has ended already, or where no run is known."""
    run = _last_run(study)
    if run is None:
        raise ConfigError(
            f"{study.path / 'runs.jsonl'} has no run of study {study.path.name!r}, so there is nothing to stop"
        )
    SuperLink(folder).stop_run(run.number)


@dataclass(frozen=True)
class _Run:
    """A Flower run of a study. ``at``: when it began, in seconds since 1970."""

    number: int
    at: float


def _last_run(study: HostedStudy) -> _Run | None:
    return next(reversed(_runs(study)), None)


def _runs(study: HostedStudy) -> list[_Run]:
    """Return the runs of a study that runs.jsonl has, the last one last."""
    file, runs = study.path / "runs.jsonl", []
    for text in file.read_text(errors="replace").splitlines() if file.is_file() else ():
        with suppress(ValueError, KeyError, TypeError):  # a crash can leave an incomplete line
            line = json.loads(text)
            runs.append(_Run(int(line["run"]), float(line.get("at", 0.0))))
    return runs


def is_at_work(study: HostedStudy) -> bool:
    """Whether a ServerApp is running this study: it holds the lock of the folder."""
    return folder_is_locked(study.path)
