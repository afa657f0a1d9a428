"""The facts of a rehearsal. The signed page shows them; ``rehearsed/<hash>.json`` stores them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from fedtl._util.records import from_plain, to_plain
from fedtl.deployment.site.manifest_json import manifest_from_rows, manifest_to_rows
from fedtl.deployment.site.signed import SignedTerms
from fedtl.federation.policy import Manifest
from fedtl.results.plan import StatePart
from fedtl.results.privacy import SiteGuarantee
from fedtl.results.rehearsal import LeavingTensor, PlanFacts, RehearsalFacts, RequestFacts, StayingTensor


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
    What holds for the site's own rows. ``privacy``: the guarantee; None without one. ``tuning``: whether
    settings were chosen on private rows. ``rows`` and ``records``: the number of training rows with labels that are used, and of
    protected units among them. ``unlabelled``: the number of training rows whose labels are not used.
    ``terms`` None: they could not be computed, and ``rows_error`` says why.
    """

    private: bool = False
    privacy: SiteGuarantee | None = None
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

    def facts(self) -> RehearsalFacts:
        """Return what the page shows."""
        claim, manifest = self.claim, self.tensors.manifest
        lines = manifest.lines if manifest else ()
        return RehearsalFacts(
            request=self.request,
            plan=self.plan,
            leaving=[LeavingTensor(line.name, line.role, line.shape, line.bytes) for line in lines],
            bytes=manifest.bytes if manifest else 0,
            manifest=manifest.hash if manifest else "",
            stays=self.tensors.stays,
            parts=self.tensors.parts,
            private=claim.private,
            privacy=claim.privacy,
            tuning=claim.tuning,
            rows=claim.rows,
            records=claim.records,
            unlabelled=claim.unlabelled,
            complete=claim.terms is not None,
            rows_error=claim.rows_error,
            refused=self.refused,
            audit=self.audit,
            folder=self.folder,
        )

    def to_json(self) -> dict[str, Any]:
        """Return all facts in one table, as the file has them."""
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
            "privacy": to_plain(claim.privacy),
            "terms": claim.terms.model_dump() if claim.terms else None,
            "refused": self.refused,
            "audit": self.audit,
            "folder": self.folder,
        }

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> "Rehearsal":
        """Return the facts in the file. Raises KeyError, TypeError or ValueError for the file of an earlier fedtl."""
        terms, privacy = facts["terms"], facts["privacy"]
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
            ClaimFacts(
                **{
                    **claim,
                    "privacy": None if privacy is None else from_plain(SiteGuarantee, privacy),
                    "terms": None if terms is None else SignedTerms.model_validate(terms),
                }
            ),
            facts["refused"],
            facts["audit"],
            facts["folder"],
        )
