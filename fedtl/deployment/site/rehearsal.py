"""The facts of a rehearsal as plain values. The signed page shows them; ``rehearsed/<hash>.json`` stores them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from fedtl.deployment.site.manifest_json import manifest_from_rows, manifest_to_rows
from fedtl.deployment.site.signed import SignedTerms
from fedtl.federation.policy import Limits, Manifest
from fedtl.results.plan import StatePart


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
    numbers: Mapping[str, Limits]
    masks: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StayingTensor:
    name: str
    role: str
    shape: Sequence[int]


@dataclass(frozen=True)
class TensorFacts:
    """
    Which tensors would leave in each round, and which stay. ``manifest`` None: the plan was refused before that. ``parts``:
    what the method keeps in addition to the model.
    """

    manifest: Manifest | None = None
    stays: Sequence[StayingTensor] = ()
    parts: Sequence[StatePart] = ()


@dataclass(frozen=True)
class ClaimFacts:
    """
    What holds for the site's own rows. ``privacy``: the guarantee in plain values; None without one. ``tuning``: whether
    settings were chosen on private rows. ``rows`` and ``records``: the number of training rows with labels that are used, and of
    protected units among them. ``unlabelled``: the number of training rows whose labels are not used.
    ``terms`` None: they could not be computed, and ``rows_error`` says why.
    """

    private: bool = False
    privacy: Mapping[str, Any] | None = None
    tuning: str | None = None
    rows: int | None = None
    records: int | None = None
    unlabelled: int | None = None
    terms: SignedTerms | None = None
    rows_error: str = ""


@dataclass(frozen=True)
class Rehearsal:
    """
    ``refused``: why the site's policy refuses the plan, or "". ``audit``: the lines of ``fedtl silo audit`` for this bundle;
    None where it was not run. ``folder``: of the site.
    """

    request: RequestFacts
    plan: PlanFacts
    tensors: TensorFacts
    claim: ClaimFacts
    refused: str
    audit: Sequence[str] | None
    folder: str

    def to_json(self) -> dict[str, Any]:
        """Return all facts in one table, as the page and the file have them."""
        claim, manifest = self.claim, self.tensors.manifest
        return {
            **asdict(self.request),
            **asdict(self.plan),
            "tensors": manifest_to_rows(manifest) if manifest else [],
            "bytes": manifest.bytes if manifest else 0,
            "manifest": manifest.hash if manifest else "",
            "stays": [asdict(tensor) for tensor in self.tensors.stays],
            "parts": [asdict(part) for part in self.tensors.parts],
            **{field.name: getattr(claim, field.name) for field in fields(ClaimFacts)},
            "terms": claim.terms.model_dump() if claim.terms else None,
            "refused": self.refused,
            "audit": self.audit,
            "folder": self.folder,
        }

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> "Rehearsal":
        """Return the facts in the file. Raises KeyError, TypeError or ValueError for the file of an earlier fedtl."""
        terms = facts["terms"]
        claim = {field.name: facts[field.name] for field in fields(ClaimFacts)}
        manifest = manifest_from_rows(facts["tensors"]) if facts["manifest"] else None
        return cls(
            RequestFacts(**{field.name: facts[field.name] for field in fields(RequestFacts)}),
            PlanFacts(**{field.name: facts[field.name] for field in fields(PlanFacts)}),
            TensorFacts(
                manifest,
                [StayingTensor(**tensor) for tensor in facts["stays"]],
                [StatePart(**part) for part in facts["parts"]],
            ),
            ClaimFacts(**{**claim, "terms": None if terms is None else SignedTerms.model_validate(terms)}),
            facts["refused"],
            facts["audit"],
            facts["folder"],
        )
