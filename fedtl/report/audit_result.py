"""
The result of an audit, as audit.json holds it: types that the page, the tables and the statement read.

``None`` means "not measured". ``read_audit`` and ``write_audit`` are the only code that knows the file's keys.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from fedtl._util.files import write_file
from fedtl.errors import ConfigError

Interval = tuple[float, float]  # lower and upper end, 95 % confidence
_OPTIONAL = Field(exclude_if=lambda value: value is None)  # a key that is left out of the file


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


@dataclass(frozen=True)
class CheckResult:
    """``p``: p-value in a sound run. ``value``: the number measured. ``reason``: what is missing, if not exercised."""

    silo: str
    name: str
    status: Status
    p: float | None
    value: float | None
    reason: Annotated[str | None, _OPTIONAL] = None


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
    tpr_at_fpr_1_percent: Annotated[float, Field(alias="tpr_at_fpr_0.01")]
    tpr_at_fpr_01_percent: Annotated[float, Field(alias="tpr_at_fpr_0.001")]


@dataclass(frozen=True)
class ConformanceResult:
    """Measured noise as a ratio of the claimed noise, one record's contribution in clips, and all p-values by check."""

    noise_std_ratio: float | None
    sensitivity_over_clip: float | None
    p_values: Mapping[str, float | None]
    passed: bool


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
    auc: float | None = None
    ci95: Interval | None = None
    tpr_at_fpr_1_percent: Annotated[float | None, Field(alias="tpr_at_fpr_0.01")] = None
    tpr_at_fpr_1_percent_ci95: Annotated[Interval | None, Field(alias="tpr_at_fpr_0.01_ci95"), _OPTIONAL] = (
        None
    )
    tpr_at_fpr_01_percent: Annotated[float | None, Field(alias="tpr_at_fpr_0.001")] = None
    tpr_at_fpr_01_percent_ci95: Annotated[
        Interval | None, Field(alias="tpr_at_fpr_0.001_ci95"), _OPTIONAL
    ] = None


@dataclass(frozen=True)
class AttackResult(AttackFigures):
    """Over all silos, with points (FPR, TPR) of the ROC curve, and for each silo."""

    roc: tuple[tuple[float, float], ...] = ()
    silos: Mapping[str, AttackFigures] = field(default_factory=dict)


@dataclass(frozen=True)
class ReconstructionFigures:
    """
    Means over reconstructed inputs, beside those of guessing the mean validation image; PSNR in dB. ``labels``: the share
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
    """Empty where no input was reconstructed."""

    cases: tuple[ReconstructionCase, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RoleCost:
    """The attacks' figures if these roles are shared, and the mean test accuracy of that federation."""

    shared: tuple[str, ...]
    auc: float | None
    ci95: Interval | None
    tpr_at_fpr_1_percent: Annotated[float | None, Field(alias="tpr_at_fpr_0.01")]
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
    vantage: Adversary
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


_RESULT = TypeAdapter(AuditResult)


def audit_json(result: AuditResult) -> dict[str, Any]:
    """The result in the plain values and keys of audit.json."""
    values = _RESULT.dump_python(result, mode="json", by_alias=True)
    if not result.inversion.cases:
        values["inversion"] = {}
    return values


def write_audit(path: Path, result: AuditResult) -> None:
    text = json.dumps(audit_json(result), indent=1, allow_nan=False) + "\n"
    write_file(path, lambda file: file.write_text(text))


def read_audit(path: Path) -> AuditResult:
    """Read audit.json. Raises ConfigError if the file is missing or is not the result of an audit."""
    try:
        return _RESULT.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(f"{path} is not the result of an audit: {str(error).splitlines()[0]}") from error
