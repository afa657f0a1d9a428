"""
Whether the sites of a study that is done are still asked if joining helped, and what they have said. Between two questions the study
rests: no ServerApp runs for it, which would keep about 335 MiB of memory for days.
"""

import math
import time

from fedtl._util.files import read_text_if_any, write_bytes
from fedtl.deployment.coordinator.study import HostedStudy
from fedtl.deployment.coordinator.study_files import NOT_YET
from fedtl.errors import ConfigError

# In a study's folder: the time until which its sites are asked, and in a second line, while the study rests, the time of the next question.
ASKING_FILE = "asking"


def begin_asking(study: HostedStudy, until: float) -> None:
    """Note until when sites are asked, in seconds since 1970."""
    _write(study, until)


def end_asking(study: HostedStudy) -> None:
    (study.path / ASKING_FILE).unlink(missing_ok=True)


def asked_until(study: HostedStudy) -> float | None:
    """Return the time until which sites are asked; None where none is asked, or where it is over. Raises ConfigError for a damaged file."""
    until = _times(study)[0]
    return until if time.time() < until else None


def rest(study: HostedStudy, until: float) -> None:
    """Note that no site is asked until then, in seconds since 1970, and that no ServerApp is needed for so long."""
    _write(study, _times(study)[0], until)


def end_rest(study: HostedStudy) -> None:
    """Note that a ServerApp is started which asks the sites."""
    if rests_until(study) is not None:
        _write(study, _times(study)[0])


def rests_until(study: HostedStudy) -> float | None:
    """Return the time of the next question, which may have passed; None where the study does not rest. Raises ConfigError."""
    return _times(study)[1] if asked_until(study) is not None else None


def _write(study: HostedStudy, *times: float) -> None:
    text = "".join(f"{each}\n" for each in times)
    write_bytes(study.path / ASKING_FILE, text.encode(), private=True)


def _times(study: HostedStudy) -> tuple[float, float | None]:
    """Return both times of the file; (0.0, None) where there is none, or where the study is not done."""
    path = study.path / ASKING_FILE
    try:
        text = read_text_if_any(path)
        if text is None or not study.done:
            return 0.0, None
        until, *following = map(float, text.split())
        if len(following) > 1 or not all(map(math.isfinite, (until, *following))):
            raise ValueError("not one time or two")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} does not hold the times at which sites were asked: {error}; remove it; its sites are then not asked again"
        ) from error
    return until, following[0] if following else None


def verdicts_of(study: HostedStudy) -> dict[str, str]:
    """Return by site whether joining helped it, or why it did not say; empty before the result, and where the plan does not ask. Raises ConfigError."""
    if not study.done:
        return {}
    result = study.result
    return dict(sorted({**result.without_verdict, **result.verdicts}.items()))


def occupies_sites(study: HostedStudy) -> bool:
    """Return whether sites still train for a study that was started: its rounds, or the model that they compare them with. Raises ConfigError."""
    if not study.done:
        return True
    return asked_until(study) is not None and any(
        reason.endswith(NOT_YET) for reason in study.result.without_verdict.values()
    )
