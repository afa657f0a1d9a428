"""
The result of an audit, as audit.json holds it: types that the page, the tables and the statement read.

``None`` means "not measured".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from fedtl._util.records import key

Interval = tuple[float, float]  # lower and upper end, 95 % confidence
FPR_1, FPR_01 = key("tpr_at_fpr_0.01"), key("tpr_at_fpr_0.001")


class Adversary(StrEnum):
    """Who attacks: the server sees every update, another silo what the server sends, the public the final model."""

    SERVER = "server"
    SILO = "silo"
    MODEL = "model"


class Status(StrEnum):
    """The outcome of a check; NOT_EXERCISED: the run has nothing that the check could measure."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_EXERCISED = "not exercised"


class Outcome(StrEnum):
    """What all checks of a silo's canaries found together."""

    PASSED = "passed"
    FAILED = "failed"
    NOISE_NOT_MEASURED = "noise not measured"


@dataclass(frozen=True)
class CheckResult:
    """``p``: p-value in a sound run. ``value``: the number measured. ``reason``: what is missing, if not exercised."""

    silo: str
    name: str
    status: Status
    p: float | None
    value: float | None
    reason: str | None = None


@dataclass(frozen=True)
class ClaimResult:
    """
    What a silo claims, and what follows from it: ``mu`` of Gaussian differential privacy (None: not finite) and the
    largest true positive rate of any attack at false positive rates of 1 % and 0.1 %.
    """

    unit: str
    adjacency: str
    units: int
    noise_multiplier: float
    sample_rate: float
    rounds: int
    steps: int
    epsilon: float
    delta: float
    mu: float | None
    tpr_at_fpr_1_percent: float = field(metadata=FPR_1)
    tpr_at_fpr_01_percent: float = field(metadata=FPR_01)


@dataclass(frozen=True)
class ConformanceResult:
    """Measured noise as a ratio of the claimed noise, one record's contribution in clips, and all p-values by check."""

    noise_std_ratio: float | None
    sensitivity_over_clip: float | None
    p_values: Mapping[str, float | None]
    passed: bool

    @property
    def outcome(self) -> Outcome:
        """What the checks found. Without canaries nothing measures the noise, and what was not measured has not passed."""
        if not self.passed:
            return Outcome.FAILED
        measured = any(name.startswith("noise") and p is not None for name, p in self.p_values.items())
        return Outcome.PASSED if measured else Outcome.NOISE_NOT_MEASURED


@dataclass(frozen=True)
class BoundsResult:
    """Lower bounds on epsilon (95 % confidence) from this number of canaries; ``gaussian`` assumes normal scores."""

    steinke: float
    fdp: float
    gaussian: float
    canaries: int


@dataclass(frozen=True)
class DetectableEpsilon:
    """The smallest true epsilon for which each bound would have refuted the claim; None: no epsilon would."""

    steinke: float | None
    fdp: float | None


@dataclass(frozen=True)
class PowerResult:
    """
    What the audit would have detected with 95 % probability: an epsilon, a relative error of the noise's standard
    deviation, and an error of one record's contribution in clips (None: no canary was sampled).
    """

    epsilon: DetectableEpsilon
    noise: float
    sensitivity: float | None


@dataclass(frozen=True)
class SiloAudit:
    claimed: ClaimResult | None
    conformance: ConformanceResult | None
    bounds: BoundsResult | None
    power: PowerResult | None


@dataclass(frozen=True)
class AttackFigures:
    """
    AUC and true positive rates of a membership attack on ``members`` training units and ``others``, with 95 % confidence
    intervals; None if there were no members or no others.
    """

    members: int
    others: int
    notes: tuple[str, ...]
    auc: float | None
    ci95: Interval | None
    tpr_at_fpr_1_percent: float | None = field(metadata=FPR_1)
    tpr_at_fpr_01_percent: float | None = field(metadata=FPR_01)
    tpr_at_fpr_1_percent_ci95: Interval | None = field(default=None, metadata=key("tpr_at_fpr_0.01_ci95"))
    tpr_at_fpr_01_percent_ci95: Interval | None = field(default=None, metadata=key("tpr_at_fpr_0.001_ci95"))


@dataclass(frozen=True)
class AttackResult(AttackFigures):
    """The figures of an attack over all silos, with points (FPR, TPR) of the ROC curve, and those of each silo."""

    roc: tuple[tuple[float, float], ...] = ()
    silos: Mapping[str, AttackFigures] = field(default_factory=dict)


@dataclass(frozen=True)
class ReconstructionFigures:
    """
    Means over reconstructed inputs, and those of guessing the mean validation image; PSNR in dB. ``labels``: the share
    of labels that was recovered (None: not attempted).
    """

    labels: float | None
    psnr: float
    psnr_of_mean: float
    ssim: float
    ssim_of_mean: float


@dataclass(frozen=True)
class ReconstructionCase(ReconstructionFigures):
    """One kind of update, whether BatchNorm statistics were shared or kept at the silo, and the number of rows."""

    case: str
    statistics: str
    rows: int


@dataclass(frozen=True)
class InversionResult:
    """The reconstructions; empty where no input was reconstructed."""

    cases: tuple[ReconstructionCase, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RoleCost:
    """The attacks' figures if these roles are shared, and the mean test accuracy of that federation."""

    shared: tuple[str, ...]
    auc: float | None
    ci95: Interval | None
    tpr_at_fpr_1_percent: float | None = field(metadata=FPR_1)
    psnr: float | None
    ssim: float | None
    labels: float | None
    accuracy: float | None


@dataclass(frozen=True)
class PlantedResult:
    """Bounds from mislabelled rows that are planted one by one (``records``), or in whole silos."""

    records: Mapping[str, BoundsResult]
    silos: BoundsResult


@dataclass(frozen=True)
class Part:
    """One part of the statement."""

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class AuditResult:
    notice: str
    verdict: str
    statement: tuple[Part, ...]
    fedtl: str
    run: str
    adversary: Adversary = field(metadata=key("vantage"))  # as fedtl 0.1.0 wrote it
    method: str
    model: str
    seed: int
    silos: Mapping[str, SiloAudit]
    membership: Mapping[str, AttackResult]
    inversion: InversionResult
    roles: tuple[RoleCost, ...]
    input_canaries: PlantedResult | None
    private: bool
    violations: tuple[str, ...]
    checks: tuple[CheckResult, ...]
    unit: str
    notes: tuple[str, ...]
    seconds: float
    peak_memory_mib: float

    @property
    def claims(self) -> dict[str, ClaimResult]:
        """The claims of the silos that claim something."""
        return {name: silo.claimed for name, silo in self.silos.items() if silo.claimed}
