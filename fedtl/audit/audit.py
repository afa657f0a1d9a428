"""A whole audit of one run folder: what audit.json holds, the page, the signed bundle."""

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import fedtl
from fedtl._util.files import write_file
from fedtl.audit import bundle, units
from fedtl.audit import checks as claims
from fedtl.audit.attacks import membership
from fedtl.audit.attacks import planted_rows as inputs
from fedtl.audit.attacks import reconstruction as reconstruct
from fedtl.audit.attacks import role_costs as roles
from fedtl.audit.attacks.inversion import psnr
from fedtl.audit.attacks.reconstruction import SHOWN, Attempt
from fedtl.audit.attacks.reference_models import Watched, evidence, looked, looks, watched
from fedtl.audit.checks import Adversary, Findings
from fedtl.audit.jobs import Piece, by_kind, engine_for
from fedtl.audit.statement import statement, verdict
from fedtl.audit.transcript import SECOND, head
from fedtl.audit.verdict import FAMILY, Check, status, violation
from fedtl.errors import ConfigError
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.pretrain import plain, pretrained
from fedtl.experiment.run_folder import TRANSCRIPT, RunFolder
from fedtl.experiment.study import Study, build
from fedtl.federation.recorder import RecordedRound, read_transcript
from fedtl.models.state import State
from fedtl.privacy.prv import EPSILON_ERROR
from fedtl.report.audit_attacks import Pictures
from fedtl.report.audit_page import audit_page
from fedtl.results.run import RunResult
from fedtl.simulation.shared_store import temporary_store
from fedtl.training import threads as machine

AUDIT, PAGE = "audit.json", "audit.html"
SIGNED = [AUDIT, PAGE, "experiment.toml"]
FIRST = 0  # of the references
Worked = Mapping[str, Mapping[Any, Any]]  # what pieces of work gave, by what they are for


@dataclass(frozen=True)
class Effort:
    """
    How much is tried: reference models, those of the table of roles, steps of an inversion; whether mislabelled rows are
    planted, which takes two more federations.
    """

    references: int = 16
    for_roles: int = 2
    iterations: int = 100
    roles: bool = True
    planted: bool = True


QUICK = Effort(references=1, for_roles=1, iterations=40, roles=False, planted=False)
Progress = Callable[
    [int, int, str], None
]  # pieces of work that are done, how many there are, and what came last


def audit(
    folder: RunFolder,
    out: Path,
    vantage: Adversary,
    effort: Effort,
    key: Path,
    device: str,
    progress: Progress,
    pictures: bool = False,
) -> dict[str, Any]:
    """
    Audit a finished run and leave the bundle in ``out``; returns what audit.json holds. ``pictures``: print training rows
    beside their reconstructions, of the silos that the run's own experiment declares showable. Raises ConfigError, before
    any work, where the run cannot be audited.
    """
    clock = time.perf_counter()
    experiment, result = folder.experiment(), folder.result()
    refuse(experiment)
    shown = showable(experiment) if pictures else frozenset[str]()
    if more := bundle.surplus(out, {*SIGNED, bundle.BUNDLE, bundle.SIGNATURE}):
        raise ConfigError(
            f"{out} holds {more[0]}, which is no part of a bundle; name a new folder with --out"
        )
    signer = bundle.key(key)
    machine.set_threads(experiment.engine.threads)
    with temporary_store() as shelf:
        start = None
        if experiment.model.pretrain_on:
            central = build(plain(experiment), shelf, shelf, device)
            start = pretrained(experiment, folder, central.trainer, central.schema)
        study = build(experiment, shelf, shelf, device, start).promised(folder)
        if unknown := sorted(shown - set(study.training)):
            raise ConfigError(
                f"audit.show_rows names {unknown[0]!r}, which does not train; there are {', '.join(study.training[:12])}"
            )
        seen = read_transcript(folder.path / TRANSCRIPT)
        worked = _worked(study, folder, seen, vantage, effort, start, progress)
        findings = claims.examine(study, folder, seen, vantage, worked.get("rehearsal", {}))
        attacks, ends = _attacks(study, folder, seen, vantage, worked)
        findings = inputs.joined(findings, ends)
        inverted, drawn = _inversion(study, worked.get("inversion", {}), shown)
        found: dict[str, Any] = {
            **{"fedtl": fedtl.__version__, "run": folder.path.name, "vantage": vantage},
            **{"method": result.method, "model": result.model, "seed": result.seed},
            **{
                "silos": findings.silos,
                "membership": attacks,
                "inversion": inverted,
                "roles": list(worked.get("roles", {}).values()),
            },
            "input_canaries": None if ends is None else ends.shown,
            "private": result.privacy is not None and result.privacy.private,
            "violations": [violation(check) for check in findings.violations],
            "checks": [_plain(check, findings.violations) for check in findings.checks],
            "unit": units.unit_of(experiment),
            "notes": [*_notes(experiment, result, findings, seen, effort), *units.notes(experiment)],
            "seconds": round(time.perf_counter() - clock, 1),
            "peak_memory_mib": _peak(),
        }
        told = {"verdict": verdict(found), "statement": [asdict(part) for part in statement(found)]}
        found = {"notice": bundle.NOTICE, **told, **found}
        _keep(found, drawn, folder, out, study, signer)
    return found


def refuse(experiment: Experiment) -> None:
    """Raise ConfigError for a method that has no silos to attack."""
    if experiment.method.name == "pooled":
        raise ConfigError("method 'pooled' is a yardstick that shares nothing; audit a run of another method")


def showable(experiment: Experiment) -> frozenset[str]:
    """The silos whose rows may be printed. Raises ConfigError where no silo's owner declares any."""
    if not experiment.audit.show_rows:
        raise ConfigError(
            "--pictures prints training rows, and this run's experiment allows that for no silo; where a silo's owner "
            'agrees, run it again with [audit] show_rows = ["<silo>"], or leave --pictures away'
        )
    return frozenset(experiment.audit.show_rows)


def _plain(check: Check, violations: Sequence[Check]) -> dict[str, Any]:
    """As audit.json holds it; of a check that was not exercised the reason, which says what is missing."""
    p, value = (None if number is None else float(number) for number in (check.p, check.value))
    missing = {"reason": check.reason} if check.p is None else {}
    its = {"silo": check.silo, "name": check.name, "status": status(check, violations)}
    return {**its, "p": p, "value": value, **missing}


Pieces = Mapping[str, Mapping[Any, Piece]]  # by what they are for


def _worked(
    study: Study,
    folder: RunFolder,
    seen: Sequence[RecordedRound],
    vantage: Adversary,
    effort: Effort,
    start: State | None,
    progress: Progress,
) -> Worked:
    """All that takes long, as pieces that every worker has its share of."""
    attacked = bool(seen) or vantage == "model"
    early = _early(study, folder, seen, effort, attacked)
    later = (effort.references - 1 + len(inputs.LEVELS) * effort.planted) * attacked
    total = sum(map(len, early.values())) + later
    found: dict[str, dict[Any, Any]] = {"reference": {}, "planted": {}}

    def work(wanted: Pieces) -> None:
        for kind, key, result in by_kind(engine, wanted):
            found.setdefault(kind, {})[key] = result
            progress(sum(map(len, found.values())), total, kind)

    with engine_for(study, start) as engine:
        work(early)
        if attacked:
            work(_later(study, vantage, effort, found["reference"][FIRST]))
    return found


def _early(
    study: Study, folder: RunFolder, seen: Sequence[RecordedRound], effort: Effort, attacked: bool
) -> Pieces:
    """The first reference, and beside it what needs none; long pieces first."""
    pieces: dict[str, Mapping[Any, Piece]] = {}
    if attacked:
        pieces["reference"] = {
            FIRST: partial(watched, study.source.study, FIRST, study.experiment.audit.transcript)
        }
    if effort.roles:
        pieces["roles"] = roles.rows(study, effort.for_roles, effort.iterations)
    pieces["rehearsal"] = claims.rehearsals(study, folder)
    # Inputs that are no images, and methods that share nothing, are not inverted.
    if study.data(study.training[0]).train.x.dim() == 4 and study.trainer.method.shared:
        pieces["inversion"] = reconstruct.attempts(study, seen, study.training, effort.iterations)
    return pieces


def _later(study: Study, vantage: Adversary, effort: Effort, first: Watched) -> Pieces:
    """What an attacker fills in from the first reference, for it does not cross."""
    of, kept = study.source.study, study.experiment.audit.transcript
    levels = inputs.LEVELS if effort.planted else ()
    return {
        "planted": {level: partial(inputs.scored, of, level, kept, vantage, first) for level in levels},
        "reference": {
            number: partial(looked, of, number, kept, vantage, first.whole)
            for number in range(FIRST + 1, effort.references)
        },
    }


def _attacks(
    study: Study, folder: RunFolder, seen: Sequence[RecordedRound], vantage: Adversary, worked: Worked
) -> tuple[dict[str, Any], inputs.Ends | None]:
    """Membership, and canaries in input space; nothing where the vantage saw nothing that was kept."""
    if not worked["reference"]:
        return {}, None
    shared = folder.tensors("shared.safetensors")
    whole = {name: shared | folder.tensors(f"silos/{name}/local.safetensors") for name in study.training}
    first = worked["reference"][FIRST]
    target = looks(study, Watched(seen, shared, whole), vantage, first.whole)
    shadows = {**worked["reference"], FIRST: looks(study, first, vantage, first.whole)}
    all_of = {name: evidence(study, name, target, shadows) for name in study.training}
    found = {name: its for name, its in all_of.items() if its is not None}
    ends = inputs.measured(study, worked["planted"]) if worked["planted"] else None
    return (membership.measure(found) if found else {}), ends


def _inversion(
    study: Study, tried: Mapping[str, Attempt], shown: frozenset[str]
) -> tuple[dict[str, Any], Pictures]:
    """Figures of all attempts, and pictures of the rows of the silos in ``shown`` alone."""
    if not tried:
        return {}, Pictures()
    found, single = reconstruct.cases(study, tried)
    allowed = [one for one in single if one.silo in shown]
    best: list[Attempt] = sorted(allowed, key=lambda one: -psnr(one.guesses, one.originals))[:SHOWN]
    pictures = Pictures(
        [one.originals[0] for one in best],
        [one.guesses[0] for one in best],
        [f"{one.silo}, {psnr(one.guesses, one.originals):.1f} dB" for one in best],
    )
    note = (
        "An attack helps only where it beats the mean of the validation images, which nobody needs an update for. "
        f"At most {reconstruct.MOST} inputs of an update are tried, each is compared with the row that it is nearest to."
    )
    return {"cases": found, "notes": [note]}, pictures


def _notes(
    experiment: Experiment,
    result: RunResult,
    findings: Findings,
    seen: Sequence[RecordedRound],
    effort: Effort,
) -> list[str]:
    notes = [
        f"{len(findings.checks)} checks share a chance of {FAMILY:g} to refute a sound run; bounds are shown at 95 %, each "
        "over looks that were fixed beforehand, and the Gaussian one never refutes by itself.",
        "GDP mu is the smallest mu whose Gaussian mechanism keeps no smaller a delta than the plan at every epsilon up to the "
        "claimed one; the plan's trade-off curve then lies nowhere more than delta below the Gaussian one.",
        "A claim is refuted by the trade-off curve of its own plan (privacy loss distribution, dp-accounting), or by its "
        "epsilon and delta. The f-DP bound that is shown is that of the largest Gaussian curve that the canaries refute.",
        f"Membership: {effort.references} reference model{'s' * (effort.references > 1)} on random halves of each silo's training and "
        "test rows. What does not cross is filled in from the first reference.",
    ]
    if result.privacy is None:
        notes.append(
            "Nothing is claimed: the run was not private, so conformance and bounds are not measured."
        )
    elif not result.privacy.private:
        notes.append("Nothing is claimed: the run's noise can be drawn again (privacy.noise = reproducible).")
    elif not experiment.audit.canaries:
        notes.append("The run had no canaries ([audit] canaries), so what they show is not measured.")
    if result.privacy:
        notes.append(f"Tuning on private data, as the experiment declares it: {result.privacy.tuning}.")
    if gaps := [
        check.value - findings.silos[check.silo]["claimed"]["epsilon"]
        for check in findings.checks
        if check.name == SECOND and check.value is not None
    ]:
        notes.append(
            "Each epsilon was composed by two libraries: dp-accounting, and Opacus' PRV accountant, whose upper end may lie "
            f"{EPSILON_ERROR:g} above it and lies {max(gaps):.3f} above it at most."
        )
    if not seen:
        notes.append("The run kept no messages ([audit] transcript), so what the server saw is not measured.")
    if not effort.roles:
        notes.append("--quick leaves out the table of roles and the planted rows.")
    return notes


def _keep(
    found: Mapping[str, Any], pictures: Pictures, folder: RunFolder, out: Path, study: Study, signer: Any
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    toml = (folder.path / "experiment.toml").read_text()
    RunFolder(out).write_json(AUDIT, found)
    page = audit_page(found, pictures, toml)
    write_file(out / PAGE, lambda file: file.write_text(page))
    write_file(out / "experiment.toml", lambda file: file.write_text(toml))
    facts = {
        **{"run": folder.path.name, "fedtl": fedtl.__version__, "torch": torch.__version__},
        "ledgers": {
            name: head(its.account.path, its.account.dataset)
            for name, its in sorted(study.guarantees.items())
        },
        "violations": found["violations"],
    }
    bundle.sign(out, SIGNED, facts, signer)


def _peak() -> float:
    """Of this process and the largest of its children, in MiB."""
    kib = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round(kib / 1024, 1)
