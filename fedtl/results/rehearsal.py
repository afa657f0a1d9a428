"""What the page shows that an institution signs. ``deployment.site.rehearsal`` computes and stores it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedtl.results.plan import StatePart
from fedtl.results.privacy import SiteGuarantee


@dataclass(frozen=True)
class RequestFacts:
    """
    Who asks for what. ``studies`` and ``until``: how many studies the approval would be for, and its last day.
    ``bundle``, ``plan`` and ``code``: hashes; ``bundle`` is "" for a rehearsed experiment.
    """

    site: str
    server: str
    asked_by: str
    purpose: str
    study: str
    studies: int
    until: str
    bundle: str
    plan: str
    code: str


@dataclass(frozen=True)
class PlanFacts:
    """
    What would run. ``source``, ``path`` and ``label``: of the site's rows. ``norm``: the maximum norm of an update.
    ``metrics``: those that would leave. ``weight``: whether the number of rows would. ``wire``: how the weights are sent. ``verdict``:
    whether joining helped would leave after the last round. ``numbers``: by name, the limits of each number that says what transfers and
    would leave in the last round. ``masks``: of a segmentation, the classes of its pixels; () for other tasks.
    ``files``: the SHA-256 of each file that the plan needs a copy of here.
    """

    method: str
    model: str
    shape: Sequence[int]
    columns: Sequence[str]
    source: str
    path: str
    label: str
    rounds: int
    minimum_silos: int
    norm: float
    metrics: Sequence[str]
    weight: bool
    wire: str
    verdict: bool
    numbers: Mapping[str, tuple[float, float]]
    masks: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StayingTensor:
    name: str
    role: str
    shape: Sequence[int]


@dataclass(frozen=True)
class LeavingTensor(StayingTensor):
    bytes: int


@dataclass(frozen=True)
class RehearsalFacts:
    """
    All facts of the page. ``leaving``: the tensors that would leave in each round, ``bytes`` in all; ``manifest``: their hash, "" where the
    plan was refused before that. ``parts``: what the method keeps in addition to the model. ``complete``: whether the terms could be
    computed; otherwise ``rows_error`` says why. ``refused``: why the site's policy refuses the plan, or "". ``audit``: the lines of
    ``fedtl silo audit``; None where it was not run. ``rows``, ``records``, ``unlabelled``: as in ``ClaimFacts``. ``folder``: of the site.
    """

    request: RequestFacts
    plan: PlanFacts
    leaving: Sequence[LeavingTensor]
    bytes: int
    manifest: str
    stays: Sequence[StayingTensor]
    parts: Sequence[StatePart]
    private: bool
    privacy: SiteGuarantee | None
    tuning: str | None
    rows: int | None
    records: int | None
    unlabelled: int | None
    complete: bool
    rows_error: str
    refused: str
    audit: Sequence[str] | None
    folder: str
