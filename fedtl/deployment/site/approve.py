"""Approves a bundle as its rehearsal showed it: the signed terms go into the record, the approval into approved.json."""

import json
from dataclasses import asdict

from fedtl._util.records import to_plain
from fedtl.deployment.site.approvals import HASH, Approval, add_approval, code_hash, withdraw_approval
from fedtl.deployment.site.covered import record_history
from fedtl.deployment.site.egress_lines import ApprovalWithdrawn, ManifestRow, PlanApproved
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.rehearsal import Rehearsal
from fedtl.deployment.site.signed import SignedTerms
from fedtl.errors import ConfigError, Denied
from fedtl.federation.policy import Code, Manifest
from fedtl.results.privacy import SiteGuarantee


def approve_bundle(home: Home, bundle: str) -> Approval:
    """Approve a bundle, by its hash, that was rehearsed here. Raises ConfigError, Denied."""
    rehearsal = _read_rehearsal(home, bundle)
    claim, manifest = rehearsal.claim, rehearsal.tensors.manifest
    if rehearsal.refused:
        raise Denied(Code.PLAN, f"the policy refuses this plan: {rehearsal.refused}")
    if claim.terms is None or manifest is None:
        raise ConfigError(
            f"the page is not complete: {claim.rows_error}; rehearse again when the rows can be read"
        )
    if record_history(home.record.lines()).today > claim.terms.until:
        raise ConfigError(
            f"the page asks for an approval until {claim.terms.until}, which has passed; rehearse again"
        )
    return record_approval(home, bundle, claim.terms, manifest, claim.privacy)


def _read_rehearsal(home: Home, bundle: str) -> Rehearsal:
    if not HASH.fullmatch(bundle):
        raise ConfigError(
            f"{bundle[:80]!r} is not the hash of a bundle, which has 64 characters; fedtl silo rehearse prints it"
        )
    path = home.path / "rehearsed" / f"{bundle}.json"
    if not path.is_file():
        raise ConfigError(
            f"bundle {bundle[:12]} was not rehearsed here; first run: fedtl silo rehearse {home.path} FILE.fab"
        )
    facts = json.loads(path.read_text())
    try:
        if facts["code"] == code_hash():
            return Rehearsal.from_json(facts)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} was written by another version of fedtl; rehearse again") from error
    raise ConfigError(f"fedtl was changed after the rehearsal of bundle {bundle[:12]}; rehearse again")


def record_approval(
    home: Home, bundle: str, signed: SignedTerms, manifest: Manifest, privacy: SiteGuarantee | None
) -> Approval:
    """Write the signed terms into the record in full, and the approval into approved.json."""
    approval = Approval(bundle, signed.plan, signed.manifest, code_hash(), signed.hash)
    home.record.append(
        PlanApproved(
            **asdict(approval),
            signed=signed.model_dump(),
            tensors=tuple(ManifestRow(**asdict(tensor)) for tensor in manifest.lines),
            privacy=to_plain(privacy),
        )
    )
    add_approval(home.approved, approval)
    return approval


def withdraw_bundle(home: Home, bundle: str) -> None:
    """Take an approval back. Raises ConfigError where the bundle is not approved."""
    withdraw_approval(home.approved, bundle)
    home.record.append(ApprovalWithdrawn(bundle=bundle))
