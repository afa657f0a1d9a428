"""Whether the sites of a study that is done are still asked if joining helped, and what they have said."""

import time

from fedtl._util.files import write_bytes
from fedtl.deployment.coordinator.study import HostedStudy
from fedtl.deployment.coordinator.study_files import NOT_YET

ASKING_FILE = "asking"  # in a study's folder: the time until which its sites are asked


def begin_asking(study: HostedStudy, until: float) -> None:
    """Note until when sites are asked, in seconds since 1970."""
    write_bytes(study.path / ASKING_FILE, f"{until}\n".encode(), private=True)


def end_asking(study: HostedStudy) -> None:
    (study.path / ASKING_FILE).unlink(missing_ok=True)


def asked_until(study: HostedStudy) -> float | None:
    """Return the time until which sites are asked; None where none is asked, or where it is over."""
    path = study.path / ASKING_FILE
    until = float(path.read_text()) if study.done and path.is_file() else 0.0
    return until if time.time() < until else None


def verdicts_of(study: HostedStudy) -> dict[str, str]:
    """Return by site whether joining helped it, or why it did not say; empty before the result, and where the plan does not ask. Raises ConfigError."""
    if not study.done:
        return {}
    result = study.result
    return dict(sorted({**result.without_verdict, **result.verdicts}.items()))


def occupies_sites(study: HostedStudy) -> bool:
    """Return whether sites still train for a study that was started: its rounds, or the model that they compare them with."""
    if not study.done:
        return True
    return asked_until(study) is not None and any(
        reason.endswith(NOT_YET) for reason in study.result.without_verdict.values()
    )
