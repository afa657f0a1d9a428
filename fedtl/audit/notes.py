"""What a reader must know to read the numbers of an audit."""

from fedtl.audit import units
from fedtl.audit.audited_run import AuditedRun
from fedtl.audit.checks import Findings
from fedtl.audit.transcript import SECOND_COMPOSITION
from fedtl.audit.verdict import FAMILY_LEVEL
from fedtl.audit.workload import Effort
from fedtl.privacy import prv
from fedtl.results.privacy import PrivacyReport


def notes(run: AuditedRun, findings: Findings, effort: Effort) -> list[str]:
    """The notes, in the order of the page."""
    experiment = run.study.experiment
    return [
        *_method_notes(findings, effort),
        *_claim_notes(run.folder.result().privacy, bool(experiment.audit.canaries)),
        *_composition_note(findings),
        *(
            []
            if run.messages
            else [
                "The run recorded no messages ([audit] transcript), so what the server saw was not attacked."
            ]
        ),
        *([] if effort.roles else ["--quick leaves out the table of role costs and the planted rows."]),
        *units.notes(experiment),
    ]


def _method_notes(findings: Findings, effort: Effort) -> list[str]:
    plural = "s" * (effort.references > 1)
    return [
        f"The probability that any of the {len(findings.checks)} checks fails although the run is sound is at most "
        f"{FAMILY_LEVEL:g}. Bounds on epsilon are given with 95 % confidence, each over shares of guesses that were fixed in "
        "advance. The Gaussian bound never refutes a claim.",
        "GDP mu is the smallest mu for which mu-GDP has at least the delta of the plan at every epsilon up to the claimed one. "
        "The plan's trade-off curve is then nowhere more than delta below that of mu-GDP.",
        "A claim is refuted by the trade-off curve of its own plan (privacy loss distribution, dp-accounting), or by its "
        "epsilon and delta. The f-DP bound that is shown is that of the largest Gaussian trade-off curve that the canaries "
        "refute.",
        f"Membership inference used {effort.references} reference model{plural}, trained on random halves of each silo's "
        "training and test rows. Tensors that do not leave a silo were replaced by those of the first reference.",
    ]


def _claim_notes(privacy: PrivacyReport | None, canaries: bool) -> list[str]:
    """The notes on the claim of the run. ``privacy``: the section of result.json."""
    if privacy is None:
        return ["The run was not private, so it claims nothing: conformance and bounds were not measured."]
    tuning = f"Tuning on private data, as the experiment declares it: {privacy.tuning}."
    if not privacy.private:
        return ["The run claims nothing: its noise can be reproduced (privacy.noise = reproducible).", tuning]
    if not canaries:
        return [
            "The run had no canaries ([audit] canaries), so noise, clipping and bounds were not measured.",
            tuning,
        ]
    return [tuning]


def _composition_note(findings: Findings) -> list[str]:
    gaps = [
        check.value - claimed.epsilon
        for check in findings.checks
        if check.name == SECOND_COMPOSITION and check.value is not None
        if (claimed := findings.silos[check.silo].claimed)
    ]
    if not gaps:
        return []
    return [
        "Each epsilon was computed by two libraries: dp-accounting, and Opacus' PRV accountant, whose upper bound may be "
        f"{prv.EPSILON_ERROR:g} larger. It is at most {max(gaps):.3f} larger."
    ]
