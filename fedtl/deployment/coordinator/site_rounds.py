"""In which rounds of which studies a site took part, or may have: for its withdrawal, and for the restore of its backup."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedtl.deployment.coordinator.study import HostedStudy
from fedtl.federation.policy import Code
from fedtl.results.run import HistoryLine

# How the reason ends of a site that sent no update, or refused.
SENT_NOTHING = ("is not connected", "is no longer admitted", "(code 7)", *(f"({code})" for code in Code))


@dataclass(frozen=True)
class StudyRounds:
    """
    ``counted``: the rounds in which the site's update counted. ``asked``: those in which it was asked, and may have sent one that did not
    count. ``last``: the last of both, and of the round that is not finished; 0 for none.
    """

    counted: Sequence[int]
    asked: Sequence[int]
    last: int


@dataclass(frozen=True)
class SiteRounds:
    site: str
    studies: dict[str, StudyRounds]


def site_rounds(folder: Path, site: str) -> SiteRounds:
    """Return the rounds of a site in every study of the coordinator's ``folder`` that it may have sent something for."""
    studies = {}
    for path in sorted((folder / "studies").glob("*/plan.json")):
        rounds = _rounds(HostedStudy(path.parent), site)
        if rounds.last:
            studies[path.parent.name] = rounds
    return SiteRounds(site, studies)


def _rounds(study: HostedStudy, site: str) -> StudyRounds:
    lines = study.log.lines()
    counted = [line.round for line in lines if site in line.silos]
    asked = [line.round for line in lines if _may_have_sent(line, site)]
    last = max([*counted, *asked], default=0)
    under_way = (study.path / "runs.jsonl").is_file() and not study.done
    if under_way and (not lines or last == lines[-1].round):
        last = lines[-1].round + 1 if lines else 1
    return StudyRounds(counted, asked, last)


def _may_have_sent(line: HistoryLine, site: str) -> bool:
    reason = line.left_out.get(site)
    return reason is not None and not reason.endswith(SENT_NOTHING)
