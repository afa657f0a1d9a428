"""
What ``fedtl server run`` looks after while its processes run: studies whose ServerApp ended, the gate's configuration, and the log of what
happens in the studies.
"""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fedtl._util.clock import ClockJumps, jump_text
from fedtl._util.files import lock_folder_if_free, write_bytes
from fedtl.deployment.coordinator.admitted import read_admitted
from fedtl.deployment.coordinator.asking import rests_until
from fedtl.deployment.coordinator.early_files import EARLY_FOLDER, EarlyFiles
from fedtl.deployment.coordinator.follow import LEFT_OUT, ROUND, STOPPED, WARNING, StudyEvent, StudyFollower
from fedtl.deployment.coordinator.nginx import nginx_configuration
from fedtl.deployment.coordinator.reply_size import damaged_bundles, reply_size
from fedtl.deployment.coordinator.settings import load_server_settings
from fedtl.deployment.coordinator.studies import (
    START_SECONDS,
    is_at_work,
    resume_study,
    start_next,
    studies_to_resume,
)
from fedtl.deployment.coordinator.study import STOPPED_FILE, HostedStudy
from fedtl.deployment.coordinator.superlink import NoAnswer, SuperLink
from fedtl.deployment.coordinator.unended import damage, unended_studies
from fedtl.deployment.event_log import log_event

log = logging.getLogger(__name__)
CLEAN_UP_SECONDS = 3600.0
MOST_RESUMES = 3  # of a study without a finished round in between
MOST_WAITS = 30  # of a study in a row, START_SECONDS apart: an hour in which the SuperLink does not answer


@dataclass
class StudyWatch:
    """
    Resumes a study that should run and whose lock no ServerApp holds, ``START_SECONDS`` after it was last seen at work. After
    ``MOST_RESUMES`` without a finished round it stops the study, and after ``MOST_WAITS`` attempts that the SuperLink did not answer.
    """

    folder: Path
    clock: Callable[[], float] = time.monotonic
    _seen: dict[str, float] = field(default_factory=dict)  # when it was at work, or started
    _resumes: dict[str, list[int]] = field(default_factory=dict)  # the last finished round at each
    _unanswered: dict[str, int] = field(default_factory=dict)  # attempts since the last answer

    def __call__(self) -> None:
        now = self.clock()
        studies = [study for study in studies_to_resume(self.folder) if rests_until(study) is None]
        names = {study.path.name for study in studies}
        self._seen = {name: at for name, at in self._seen.items() if name in names}
        for study in studies:
            name = study.path.name
            if is_at_work(study):
                self._seen[name] = now
            elif now - self._seen.setdefault(name, now) >= START_SECONDS:
                self._seen[name] = now
                self._resume(study)

    def _resume(self, study: HostedStudy) -> None:
        name, lines = study.path.name, study.log.lines()
        done = lines[-1].round if lines else 0
        at = self._resumes.setdefault(name, [])
        if at.count(done) >= MOST_RESUMES:
            where = (
                "while it asked whether joining helped"
                if study.done
                else f"in round {done + 1} without a result"
            )
            _stop(
                study,
                f"its ServerApp ended {MOST_RESUMES + 1} times {where}; see the output of fedtl server run",
            )
            return
        try:
            resume_study(self.folder, study)
        except NoAnswer as error:
            self._wait(study, str(error))
            return
        self._unanswered.pop(name, None)
        at.append(done)
        log.warning("study %s: its ServerApp has ended; it is resumed after round %d", name, done)

    def _wait(self, study: HostedStudy, reason: str) -> None:
        name = study.path.name
        self._unanswered[name] = attempts = self._unanswered.get(name, 0) + 1
        if attempts < MOST_WAITS:
            log.warning("study %s is resumed in %g s: %s", name, START_SECONDS, reason)
        else:
            del self._unanswered[name]
            _stop(study, f"it could not be resumed {attempts} times in a row: {reason}")


def _stop(study: HostedStudy, reason: str) -> None:
    write_bytes(study.path / STOPPED_FILE, f"{reason}\n".encode(), private=True)
    log.error("study %s is stopped: %s", study.path.name, reason)


@dataclass
class DamageWatch:
    """Logs once that a file of a study cannot be read, and stops that study unless its ServerApp, which has read the file, still runs."""

    folder: Path
    _told: dict[str, str] = field(default_factory=dict)

    def __call__(self) -> None:
        for study in unended_studies(self.folder):
            name, reason = study.path.name, damage(study)
            if not reason:
                continue
            if self._told.get(name) != reason:
                self._told[name] = reason
                log.error("study %s: %s", name, reason)
            with suppress(OSError):  # of a folder that another user owns; the others are looked at anyway
                if not is_at_work(study):
                    write_bytes(study.path / STOPPED_FILE, f"{reason}\n".encode(), private=True)


@dataclass(frozen=True)
class EarlyWatch:
    """Removes the updates that a killed ServerApp has left, also where its study is stopped and never continues."""

    folder: Path

    def __call__(self) -> None:
        for left in (self.folder / "studies").glob(f"*/{EARLY_FOLDER}"):
            with lock_folder_if_free(left.parent) as held:
                if held:
                    EarlyFiles(left).clear()


@dataclass
class BundleWatch:
    """Logs once that the tensors of a bundle cannot be read: the limits of replies do not count it, and no study can be started from it."""

    folder: Path
    _told: dict[str, str] = field(default_factory=dict)

    def __call__(self) -> None:
        damage = damaged_bundles(self.folder)
        for name, reason in damage.items():
            if self._told.get(name) != reason:
                log.error("bundle %s: %s", name, reason)
        self._told = damage


@dataclass(frozen=True)
class AskWatch:
    """Has a study that rests ask its sites again when it is time: see ``asking``."""

    folder: Path

    def __call__(self) -> None:
        for study in studies_to_resume(self.folder):
            again = rests_until(study)
            if again is not None and again <= time.time() and not is_at_work(study):
                resume_study(self.folder, study)


@dataclass
class CleanUpWatch:
    """Has the SuperLink remove what ended runs have left in its database, now and every ``CLEAN_UP_SECONDS``, so that state.db does not grow without end."""

    folder: Path
    clock: Callable[[], float] = time.monotonic
    _last: float | None = None

    def __call__(self) -> None:
        now = self.clock()
        if self._last is None or now - self._last >= CLEAN_UP_SECONDS:
            self._last = now
            SuperLink(self.folder).clean_up()


@dataclass
class ClockWatch:
    """Logs that this machine's clock was set. Flower decides by it which messages are too late and which sites are connected."""

    jumps: Callable[[], ClockJumps] = ClockJumps
    _since: ClockJumps = field(init=False)

    def __post_init__(self) -> None:
        self._since = self.jumps()

    def __call__(self) -> None:
        if jump := self._since.since():
            log.warning(
                "this machine's clock was %s: tasks of a round that runs may be lost, and Flower refuses sites whose clocks differ by more than "
                "300 s; synchronise it (NTP)",
                jump_text(jump),
            )
        self._since = self.jumps()


@dataclass(frozen=True)
class QueueWatch:
    """Starts the study that has waited longest where no other one runs."""

    folder: Path

    def __call__(self) -> None:
        if study := start_next(self.folder):
            log.info("study %s, which waited for another one to end, is started", study.path.name)


def gate_text(folder: Path) -> str:
    """Return nginx's configuration for the sites and bundles of now. Raises ConfigError."""
    return nginx_configuration(
        folder, load_server_settings(folder), read_admitted(folder), reply_size(folder)
    )


@dataclass
class GateWatch:
    """
    Writes nginx's configuration again where sites were admitted or expelled, or a bundle with a larger reply was built, and has nginx read it.
    ``nginx``: its process, a child of this one that has not been waited for; None where fedtl does not run it, and its owner reloads it.
    """

    folder: Path
    loaded: str
    nginx: int | None = None

    def __call__(self) -> None:
        text = gate_text(self.folder)
        if text == self.loaded:
            return
        write_bytes(self.folder / "gate" / "nginx.conf", text.encode())
        if self.nginx is not None:
            # nginx.pid alone does not say whom to signal: its number may be another process's, here or in another container. Before
            # nginx writes it, the signal would end nginx; then the next look sends it.
            pid_file = self.folder / "gate" / "nginx.pid"
            if not pid_file.is_file() or pid_file.read_text().strip() != str(self.nginx):
                return
            os.kill(self.nginx, signal.SIGHUP)
        self.loaded = text


@dataclass
class EventWatch:
    """Logs what happens in the studies from now on, and starts ``server.toml``'s ``on_stopped`` where one stops."""

    folder: Path
    _follower: StudyFollower = field(init=False)
    _hooks: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._follower = StudyFollower(self.folder)
        list(self._follower.look())  # what happened before

    def __call__(self) -> None:
        self._hooks = [hook for hook in self._hooks if hook.poll() is None]  # none stays as a zombie
        for event in self._follower.look():
            level = logging.WARNING if event.what in (LEFT_OUT, WARNING, STOPPED) else logging.INFO
            figures = event.figures if event.what == ROUND else {}
            log_event(log, str(event), {"study": event.study, "event": event.what, **figures}, level)
            if event.what == STOPPED:
                self._start_hook(event)

    def _start_hook(self, event: StudyEvent) -> None:
        if words := load_server_settings(self.folder).on_stopped:
            environment = {**os.environ, "FEDTL_STUDY": event.study, "FEDTL_REASON": event.text}
            self._hooks.append(
                subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
            )
