"""The lines of ``fedtl server status`` about one study."""

from collections.abc import Mapping
from datetime import datetime

from fedtl.cli.screen import print_line
from fedtl.deployment.coordinator.status import StudyStatus


def print_study(name: str, study: StudyStatus) -> None:
    """Print how far a study is, who was left out of its last round, and whether joining helped."""
    if study.damaged:
        print_line(f"study {name}: {study.damaged}")
        return
    waits = "queued" if study.queued else "not running: fedtl server start"
    state = "done" if study.done else "running" if study.at_work else waits
    state += f" (stopped: {study.stopped})" if study.stopped else ""
    print_line(f"study {name}: round {study.round} of {study.rounds}, {state}")
    for reason in study.left_out.values():
        print_line(f"  left out: {reason}")
    for warning in study.outliers:
        print_line(f"  warning: {warning}")
    _print_verdicts(study.verdicts)
    if study.asked_until:
        until = datetime.fromtimestamp(study.asked_until)
        print_line(f"  sites without an answer are asked again until {until:%Y-%m-%d %H:%M}")


def _print_verdicts(verdicts: Mapping[str, str]) -> None:
    """Print a table of whether joining helped each site; nothing where no site was asked."""
    if not verdicts:
        return
    width = max(map(len, verdicts))
    print_line(f"  {'site':<{width}}  did joining help, by its own test rows")
    for name, word in verdicts.items():
        print_line(f"  {name:<{width}}  {word.removeprefix(f'{name}: ')}")
