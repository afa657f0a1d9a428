"""
The first screen of the page that a steward signs: the questions of somebody who has to decide, answered in plain words from
the rehearsal's facts.
"""

from collections.abc import Mapping
from typing import Any

from fedtl.report import wording

Facts = Mapping[str, Any]
KEPT = {
    "head": "the model's last layer (head)",
    "stats": "the means and variances measured here (stats)",
    "norm": "scales and shifts (norm)",
    "body": "layers before the last (body)",
}


def signable(facts: Facts) -> bool:
    """Whether the page can be approved as it is."""
    return not facts["refused"] and facts["terms"] is not None


def answers(facts: Facts) -> list[str]:
    """What has to be read first."""
    if facts["refused"]:
        return [f"REFUSED by this institution's own policy: {facts['refused']}. It cannot be approved."]
    if facts["terms"] is None:
        return [f"INCOMPLETE: {facts['rows_error']}. It cannot be approved until the rows can be read."]
    if not facts["private"]:
        return ["WITHOUT differential privacy: what leaves can tell about a single person."]
    its = facts["privacy"]
    return [
        f"With differential privacy for every {its['unit']}: noise hides what one {its['unit']} adds, up to the bound below "
        f"(epsilon {its['epsilon']:.2f}, delta {its['delta']:.1e}, all rounds of a study together)."
    ]


def overview(facts: Facts) -> list[tuple[str, str]]:
    """The questions of somebody who has to decide, each with its answer."""
    unit = (facts["privacy"] or {}).get("unit", "record")
    rows = [
        (
            "Who asks",
            f"{facts['asked_by'] or 'Not stated'} (the coordinator's words), through the server {facts['server']}.",
        ),
        ("For what purpose", facts["purpose"] or "Not stated."),
        ("Which rows", _rows(facts, unit)),
        ("Which columns", _columns(facts)),
    ]
    if facts["tensors"]:
        rows += [("What would leave", _leaves(facts)), ("How often, until when", _often(facts))]
    if signable(facts):
        whom = unit if facts["private"] else "person"
        rows.append((f"What could be learnt about one {whom}", _learnt(facts, unit)))
        rows += [("Who is not covered", wording.not_covered(unit))] if facts["private"] else []
    if facts["stays"]:
        rows.append(("What stays here", _stays(facts)))
    return rows


def _rows(facts: Facts, unit: str) -> str:
    where = f"{facts['source']} {facts['path']}".strip()
    if facts["records"] is None:
        return f"How many is not known yet. Source: {where}."
    several = "" if unit == "record" else f" with {facts['rows']:,} records"
    return f"{facts['records']:,} {unit}s{several} to train on; others are kept aside to test with. Source: {where}."


def _columns(facts: Facts) -> str:
    label = repr(facts["label"]) if facts["source"] == "table" else "the label of each row"
    if facts["columns"]:
        return f"{', '.join(facts['columns'])}; to learn: {label}. No other column is read into the model."
    if len(facts["shape"]) == 1:
        return f"{facts['shape'][0]} numbers by position, without names; to learn: {label}."
    channels = "1 channel" if facts["shape"][0] == 1 else f"{facts['shape'][0]} channels"
    size = " x ".join(map(str, facts["shape"][1:]))
    return f"Images of {size} pixels with {channels}; to learn: {label}."


def _leaves(facts: Facts) -> str:
    noise = "with random noise" if facts["private"] else "without noise"
    figures = ", ".join(facts["metrics"])
    told = [
        f"How training here changed {len(facts['tensors'])} arrays of the model's numbers, {noise}: "
        f"{facts['bytes']:,} bytes a round.",
        f"The {figures} on rows held aside." if figures else "No accuracy and no other figure.",
    ]
    if facts["private"] and facts["records"] is not None:
        told.append(wording.size_is_public(facts["records"], facts["privacy"]["unit"]))
    elif not facts["private"]:
        told.append("The number of rows, too." if facts["weight"] else "Not the number of rows.")
    return " ".join([*told, "No row itself leaves."])


def _often(facts: Facts) -> str:
    studies = "1 study" if facts["studies"] == 1 else f"{facts['studies']} studies"
    total = facts["bytes"] * facts["rounds"] * facts["studies"]
    return (
        f"In at most {facts['rounds']} rounds of {studies}, {total:,} bytes in all. Nothing leaves under this approval "
        f"after {facts['until']} (UTC)."
    )


def _learnt(facts: Facts, unit: str) -> str:
    its = facts["privacy"]
    if its is None:
        return wording.without_privacy()
    if facts["studies"] == 1:
        return wording.worst_case(its["epsilon"], its["delta"], unit)
    several = min(its["epsilon"] * facts["studies"], its["lifetime_epsilon"])
    return f"{wording.worst_case(several, its['delta'] * facts['studies'], unit)} (All {facts['studies']} studies together.)"


def _stays(facts: Facts) -> str:
    roles = {row["role"] for row in facts["stays"]}
    kept = "".join(f", {words}" for role, words in KEPT.items() if role in roles)
    return f"Every row{kept}. Each message is checked and written down here before it leaves."


def audit(facts: Facts) -> list[str]:
    """What an audit on the institution's own rows found, or how to run one."""
    if not signable(facts):
        return ["Not run, because this plan cannot be approved as it is."]
    if facts["audit"] is not None:
        return list(facts["audit"])
    if not facts["private"]:
        return ["Not run: without differential privacy there is no claim to test."]
    command = f"fedtl silo audit {facts['folder']} {facts['study']}.fab"
    return [
        f"Not run. It tries to break the claim on your own rows, and nothing leaves: {command}, then rehearse again."
    ]
