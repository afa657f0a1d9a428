"""
Withdraws a site: it is not asked any more, and for each study with its updates there is one that begins at the last state without them.
What a model has learnt from a site cannot be taken out of it, so the rounds from the site's first update on are done again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from safetensors.torch import load_file

from fedtl.data.plain_names import MAX_NAME, SILO_NAME
from fedtl.deployment.coordinator.admitted import read_admitted
from fedtl.deployment.coordinator.site_rounds import site_rounds
from fedtl.deployment.coordinator.sites import suspend_site
from fedtl.deployment.coordinator.study import HostedStudy, log_before
from fedtl.errors import ConfigError

HASHED = 10  # characters of a hash in the name of a study


@dataclass(frozen=True)
class StudyWithout:
    """
    ``counted``: the rounds of ``study`` in which the site's update counted; ``running``: it has not ended. ``name``: of the study without it; ``after``: the last round
    that both have, 0 for none; None where the state after that round was not kept. ``bundle``: of both.
    """

    study: str
    counted: Sequence[int]
    running: bool
    name: str
    after: int | None
    bundle: str


def withdraw_site(folder: Path, site: str) -> list[StudyWithout]:
    """
    Suspend a site, and prepare a study without it for each one in which its update counted. ``start_study`` starts it. Raises
    ConfigError for a site that is not known, and where another study has the name already.
    """
    sites, studies = read_admitted(folder), site_rounds(folder, site).studies
    if site not in sites and not studies:
        raise ConfigError(f"there is no site {site!r}; admitted: {', '.join(sorted(sites)) or 'none'}")
    if site in sites and not sites[site].suspended:
        suspend_site(folder, site, True)
    return [
        _without(HostedStudy(folder / "studies" / name), site, rounds.counted)
        for name, rounds in studies.items()
        if rounds.counted
    ]


def name_without(study: str, site: str) -> str:
    """Return the name of a study without a site; where it would be too long, it is cut and ends with a part of its hash."""
    name = f"{study}-without-{site}"
    if SILO_NAME.fullmatch(name):
        return name
    return f"{name[: MAX_NAME - HASHED - 1]}-{sha256(name.encode()).hexdigest()[:HASHED]}"


def _without(study: HostedStudy, site: str, counted: Sequence[int]) -> StudyWithout:
    plan, before = study.plan, counted[0] - 1
    name = name_without(study.path.name, site)
    other = HostedStudy(study.path.with_name(name))
    running = not study.done and (study.path / "runs.jsonl").is_file()
    facts = (study.path.name, counted, running, name)
    if before and not other.log.has_checkpoint:
        kept = log_before(study, counted[0]).resume()
        if kept is None:
            return StudyWithout(*facts, None, plan.bundle_name)
        own = replace(plan, config=replace(plan.config, study=name))
        other = HostedStudy.create(other.path, own, load_file(study.path / "start.safetensors"))
        other.log.resume()  # removes the lines of a preparation that was cut off
        for line in study.log.lines()[:before]:
            other.log.append(line)
            if earlier := log_before(study, line.round).resume():  # for the withdrawal of another site
                log_before(other, line.round).save(earlier.server)
        other.log.save(kept.server)
    return StudyWithout(*facts, before, plan.bundle_name)
