"""Everything that can refute what a private run claims: all checks of all silos, and the bounds beside the claim."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from fedtl._util.randomness import numpy_generator
from fedtl.audit.attacks.reference_models import StudyOf
from fedtl.audit.canaries import one_run
from fedtl.audit.canaries.conformance import Claim, between, conformance, final, likelihood
from fedtl.audit.canaries.log import CanaryPhase, released, stretches
from fedtl.audit.claim import SiloClaim
from fedtl.audit.jobs import Piece
from fedtl.audit.power import resolution
from fedtl.audit.retraining.audited_silo import stage_of
from fedtl.audit.retraining.run import REHEARSALS, rehearse
from fedtl.audit.transcript import RunDocuments, manifest, transcript
from fedtl.audit.verdict import FAMILY, Check, failed
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import Study
from fedtl.federation.recorder import RecordedRound
from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.results.privacy import SiloPrivacy
from fedtl.training.trainer import Trainer

Adversary = Literal["server", "silo", "model"]
SIGNIFICANCE = 0.05  # of the bounds that are shown; what refutes is held to the family's share


@dataclass(frozen=True)
class Findings:
    """All checks, those that failed at the family's level, and what audit.json says of each silo."""

    checks: Sequence[Check]
    violations: Sequence[Check]
    silos: Mapping[str, Any]


def rehearsals(study: Study, folder: RunFolder) -> dict[str, Piece]:
    """Each private silo's rehearsals, as a piece of work."""
    return {
        name: partial(_rehearsed, study.source.study, study.guarantees, name, _canaries(folder, name))
        for name in study.guarantees
    }


def _rehearsed(
    of: StudyOf,
    guarantees: Mapping[str, PrivacyGuarantee],
    name: str,
    run: list[CanaryPhase],
    trainer: Trainer,
) -> list[Check]:
    return rehearse(stage_of(replace(of(trainer), guarantees=guarantees), name), run)


def _canaries(folder: RunFolder, name: str) -> list[CanaryPhase]:
    return stretches(folder.silo(name) / "canaries")


def examine(
    study: Study,
    folder: RunFolder,
    seen: Sequence[RecordedRound],
    vantage: Adversary,
    rehearsed: Mapping[str, Sequence[Check]],
) -> Findings:
    """
    Audit a finished run at its site: ``study`` is built from the run's own experiment, with its promises, and
    ``rehearsed`` is what its ``rehearsals`` gave. Raises ConfigError where a paper is missing.
    """
    result = folder.result()
    claimed = (result.privacy.silos if result.privacy else None) or {}
    runs = {name: run for name in claimed if (run := _canaries(folder, name))}
    checks, silos = list[Check](), dict[str, Any]()
    claims = {name: SiloClaim.of(said, study.guarantees[name]) for name, said in claimed.items()}
    for name in sorted(result.silos):
        own = list[Check]()
        if name in claimed:
            own += _of(study, folder, name, claimed[name], runs.get(name, []), seen)
            own += rehearsed[name]
        checks += own
        silos[name] = _shown(claims.get(name), own)
        if name in runs:
            scores = (
                final(runs[name]) if vantage == "model" else likelihood(runs[name], Claim.of(claimed[name]))
            )
            bounds, tests = _bounds(study, name, claims[name], scores, runs[name][0].member)
            checks += tests
            silos[name]["bounds"] = bounds
            silos[name]["power"] = _power(study, claims[name], runs[name])
    checks += between(runs)
    width = study.data(study.training[0]).width
    checks += manifest(seen, study.trainer.partition, study.trainer.initial(width))
    violations = failed(checks)
    for name, its in silos.items():
        if its["conformance"]:
            its["conformance"]["passed"] = not any(check.silo == name for check in violations)
    return Findings(checks, violations, silos)


def _of(
    study: Study,
    folder: RunFolder,
    name: str,
    claim: SiloPrivacy,
    run: list[CanaryPhase],
    seen: Sequence[RecordedRound],
) -> list[Check]:
    experiment = study.experiment
    replied = [line.round for line in folder.history() if name in line.silos]
    papers = RunDocuments(
        *(name, folder.path.name, folder.silo(name) / "ledger.sqlite", claim, replied, seen, run),
        *(experiment.seed, experiment.rounds),
    )
    statistics = released(folder.silo(name) / "canaries")
    own = (
        conformance(name, run, statistics, Claim.of(claim), study.trainer.training, study.experiment.rounds)
        if run
        else []
    )
    return own + transcript(papers)


def _shown(claim: SiloClaim | None, checks: Sequence[Check]) -> dict[str, Any]:
    """What audit.json holds of one silo: claimed, measured, and what could have been seen; None: not measured."""
    found = {check.name: check for check in checks}
    noise, clip = found.get("noise"), found.get("sensitivity")
    return {
        "claimed": None if claim is None else claim.shown(),
        "conformance": {
            "noise_std_ratio": noise.value if noise else None,
            "sensitivity_over_clip": clip.value if clip else None,
            "p_values": {check.name: check.p for check in checks},
            "passed": None,
        }
        if checks
        else None,
        "bounds": None,
        "power": None,
    }


def _bounds(
    study: Study, name: str, claim: SiloClaim, scores: one_run.Floats, member: one_run.Coins
) -> tuple[dict[str, Any], list[Check]]:
    """The bounds that are shown, and the two that may refute. Ties are broken by the audit's own generator."""
    ties = numpy_generator("audit", "ties", study.experiment.seed, name)
    shown = one_run.bounds(scores, member, claim.delta, SIGNIFICANCE, ties)
    tests = against("bound", name, scores, member, claim, shown, ties)
    return {**asdict(shown), "canaries": len(member)}, tests


def against(
    what: str,
    name: str,
    scores: one_run.Floats,
    member: one_run.Coins,
    claim: SiloClaim,
    shown: one_run.Bounds,
    ties: np.random.Generator,
) -> list[Check]:
    """
    Whether scores contradict a claim: its epsilon and delta by one bound, its plan's trade-off curve by the other. All
    looks are paid for in p.
    """
    looks = one_run.looks(scores, member, ties)
    steinke = min(one_run.steinke_p(look, claim.epsilon, claim.delta) for look in looks) * len(looks)
    fdp = min(one_run.fdp_p(look, claim.curve.min_fpr) for look in looks) * len(looks)
    said = f"the canaries were guessed better than epsilon {claim.epsilon:.3g} allows"
    return [
        Check(
            f"{what} steinke",
            name,
            min(1.0, steinke),
            shown.steinke,
            f"{said}; it is at least {shown.steinke:.3g}",
        ),
        Check(
            f"{what} fdp",
            name,
            min(1.0, fdp),
            shown.fdp,
            f"{said} by the plan's own trade-off curve; if Gaussian, it is at least {shown.fdp:.3g}",
        ),
    ]


def _power(study: Study, claim: SiloClaim, run: Sequence[CanaryPhase]) -> dict[str, Any]:
    """What this audit would have seen in one silo, with a chance of ``one_run.SURE``."""
    level = FAMILY / _family(study)
    count = len(run[0].member)
    return {
        "epsilon": one_run.power(count, claim.epsilon, claim.delta, claim.curve.min_fpr, level),
        **resolution(run, claim.noise_multiplier, level),
    }


def _family(study: Study) -> int:
    """How many checks a whole audit has, near enough for a statement of power."""
    silos = len(study.training)
    return silos * (21 + len(REHEARSALS)) + silos * (silos - 1) // 2
