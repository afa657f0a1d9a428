"""The page that a steward signs, as text and as HTML: the same facts in the same order. Decides nothing."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

Facts = Mapping[str, Any]


def text(facts: Facts) -> str:
    """Plain text, 110 wide."""
    lines = [title(facts), "=" * len(title(facts)), "", *(_wrapped(line) for line in answers(facts)), ""]
    lines += [f"{name:<24} {value}" for name, value in summary(facts)]
    if facts["tensors"]:
        lines += ["", f"LEAVES each round: {len(facts['tensors'])} tensors, {facts['bytes']:,} bytes", ""]
        lines += _table(("tensor", "role", "shape", "bytes", "differential privacy"), leaving(facts))
        lines += ["", f"STAYS: the rows, and {len(facts['stays'])} tensors", ""]
        lines += _table(("tensor", "role", "shape"), staying(facts))
    lines += ["", *(f"* {_wrapped(note)}" for note in notes(facts)), ""]
    lines += [
        "Approved for this institution:",
        "",
        "name ____________________   date ______________   signature ____________________",
        "",
    ]
    return "\n".join(lines)


def page(facts: Facts) -> str:
    """One HTML page that needs nothing but itself."""
    return _ENVIRONMENT.get_template("rehearsal.html.j2").render(
        title=title(facts),
        refused=bool(facts["refused"]),
        answers=answers(facts),
        summary=summary(facts),
        leaving=leaving(facts),
        staying=staying(facts),
        count=len(facts["tensors"]),
        bytes=f"{facts['bytes']:,}",
        notes=notes(facts),
    )


def title(facts: Facts) -> str:
    return f"What would leave {facts['site']} in study {facts['study']}"


def answers(facts: Facts) -> list[str]:
    if facts["refused"]:
        return [f"REFUSED by this institution's own policy: {facts['refused']}. It cannot be approved."]
    total = facts["bytes"] * facts["rounds"]
    first = (
        f"{facts['bytes']:,} bytes leave each round and {total:,} in {facts['rounds']} rounds. A round on random rows "
        "gave exactly the tensors below."
    )
    its = facts["privacy"]
    if not facts["private"]:
        return [first, "WITHOUT differential privacy: what leaves can tell about a single record."]
    if its is None:
        return [first, f"With differential privacy; the promise is not known yet: {facts['rows_error']}."]
    return [
        first,
        f"Differential privacy for every {its['unit']}: epsilon {its['epsilon']:.2f}, delta {its['delta']:.1e}, all rounds together "
        f"({its['adjacency']}; replace-one: {its['epsilon_replace_one']:.2f}).",
    ]


def summary(facts: Facts) -> list[tuple[str, str]]:
    rows = [
        ("server", facts["server"]),
        ("method and model", f"{facts['method']}, {facts['model']}, inputs {_shape(facts['shape'])}"),
        ("rounds", f"{facts['rounds']}, of at least {facts['minimum_silos']} silos each"),
        ("figures that leave", ", ".join(facts["metrics"]) or "none"),
        ("number of rows leaves", "yes, as the weight" if facts["weight"] else "no"),
    ]
    if facts["tuning"]:
        rows.append(("tuning on private data", facts["tuning"]))
    if its := facts["privacy"]:
        rows += [
            (
                "noise",
                f"{its['noise_multiplier']:.3f} x clip {its['clip']:g}, {its['steps_a_round']} steps a round",
            ),
            ("sampling rate", f"{its['sample_rate']:.4f} of {its['units']} {its['unit']}s"),
        ]
        rows.append(("lifetime budget", f"epsilon {its['lifetime_epsilon']:g}"))
        theirs = ", ".join(name.replace("_", " ") for name in its["from_plan"])
        rows.append(("the plan's, not silo.toml's", theirs or "none of the promise's numbers"))
    return [
        *rows,
        ("hash of the plan", facts["plan"]),
        ("hash of the bundle", facts["bundle"] or "none: rehearse the bundle itself before approving"),
        ("hash of what leaves", facts["manifest"]),
        ("hash of this fedtl", facts["code"]),
    ]


def leaving(facts: Facts) -> list[tuple[str, ...]]:
    status = "noisy" if facts.get("private") else "none"
    return [
        (row["name"], row["role"], _shape(row["shape"]), f"{row['bytes']:,}", status)
        for row in facts["tensors"]
    ]


def staying(facts: Facts) -> list[tuple[str, ...]]:
    return [(row["name"], row["role"], _shape(row["shape"])) for row in facts["stays"]]


def notes(facts: Facts) -> list[str]:
    told = [
        "The site checks every message against this list before it leaves, and writes each down: fedtl silo ledger.",
        "That so many silos are aggregated, and that updates are not kept, is the server's word; the site cannot see it.",
        "The server sees when the site takes part. A refusal is one word out of five; reasons stay in the record.",
    ]
    if (facts.get("privacy") or {}).get("unit") == "record":
        told.append("The promise is for a record: a person with several records is protected less.")
    return told


def _shape(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes)) or "scalar"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]


def _wrapped(line: str) -> str:
    return textwrap.fill(line, 108, subsequent_indent="  ", break_long_words=False)


_ENVIRONMENT = Environment(
    loader=PackageLoader("fedtl.report", "."),
    autoescape=select_autoescape(default=True, default_for_string=True),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
