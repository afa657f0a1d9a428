"""
The page that a steward signs, as text and as HTML: the same facts in the same order. First the questions of
whoever has to decide, then the technical table with its terms explained. Decides nothing.
"""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from fedtl.report import wording
from fedtl.report.questions import Facts, answers, audit, overview, signable

ROLES = {
    "body": "computes features of an input",
    "head": "the last layer, which turns features into the answer",
    "norm": "scale and shift of a normalisation layer",
    "stats": "means and variances that a normalisation layer measured on rows",
    "aux": "a helper that is used in training alone",
    "count": "how many batches were seen",
    "extra": "beside the model, of the set of tensors that its name begins with: the method needs it in training",
    "summary": "a mean over the rows' vectors",
}


def text(facts: Facts) -> str:
    """Plain text, 110 wide."""
    lines = [title(facts), "=" * len(title(facts)), ""]
    lines += [line for answer in answers(facts) for line in [*_wrapped(answer), ""]]
    for question, answer in overview(facts):
        lines += _beside(question, answer)
    lines += ["", "AUDIT ON YOUR OWN DATA", "", *(line for told in audit(facts) for line in _wrapped(told))]
    lines += ["", "IN DETAIL", ""]
    for name, value, meaning in details(facts):
        lines += _beside(name, value, 28) + (_beside("", meaning, 30) if meaning else [])
    if facts["tensors"]:
        lines += ["", f"LEAVES each round: {len(facts['tensors'])} tensors, {facts['bytes']:,} bytes", ""]
        lines += [*_wrapped(legend(facts)), ""]
        lines += _table(("tensor", "role", "shape", "bytes", "differential privacy"), leaving(facts))
        lines += ["", f"STAYS: the rows, and {len(facts['stays'])} tensors", ""]
        lines += _table(("tensor", "role", "shape"), staying(facts))
    lines += ["", *(line for note in notes(facts) for line in _wrapped(f"* {note}")), ""]
    if signable(facts):
        lines += ["Approved for this institution:", ""]
        lines += ["name ____________________   date ______________   signature ____________________", ""]
    return "\n".join(lines)


def page(facts: Facts) -> str:
    """One HTML page that needs nothing but itself."""
    return _ENVIRONMENT.get_template("rehearsal.html.j2").render(
        title=title(facts),
        warned=not (signable(facts) and facts["private"]),
        signable=signable(facts),
        answers=answers(facts),
        overview=overview(facts),
        audit=audit(facts),
        details=details(facts),
        legend=legend(facts),
        leaving=leaving(facts),
        staying=staying(facts),
        count=len(facts["tensors"]),
        bytes=f"{facts['bytes']:,}",
        notes=notes(facts),
    )


def title(facts: Facts) -> str:
    return f"May {facts['site']} take part in study {facts['study']}?"


def details(facts: Facts) -> list[tuple[str, str, str]]:
    """(term, value, what it means)"""
    rows = [
        ("method", facts["method"], "what is shared, and how it is trained"),
        ("model", f"{facts['model']}, inputs {_shape(facts['shape'])}", ""),
        (
            "rounds",
            f"{facts['rounds']} a study",
            "in each, the model comes, is trained here, and its change leaves",
        ),
        (
            "institutions a round",
            f"{facts['minimum_silos']} at least",
            "the coordinator's word; this institution cannot check it",
        ),
        (
            "figures that leave",
            ", ".join(facts["metrics"]) or "none",
            "measured on rows that are not trained on",
        ),
        ("number of rows leaves", "yes, as the weight" if facts["weight"] else "no", ""),
        (
            "largest update",
            f"{facts['norm']:g}",
            "Euclidean norm of all that leaves in a round; a larger one is refused",
        ),
    ]
    if facts["tuning"]:
        rows.append(
            (
                "tuning on private data",
                facts["tuning"],
                "whether settings were chosen by looking at private rows",
            )
        )
    if its := facts["privacy"]:
        rows += _privacy(its)
    return [
        *rows,
        ("hash of the plan", facts["plan"], "a hash names content: a change in it is another hash"),
        ("hash of the bundle", facts["bundle"] or "none: rehearse the bundle itself before approving", ""),
        ("hash of what leaves", facts["manifest"], ""),
        ("hash of this fedtl", facts["code"], ""),
    ]


def _privacy(its: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    unit = its["unit"]
    theirs = ", ".join(name.replace("_", " ") for name in its["from_plan"])
    return [
        (
            "epsilon",
            f"{its['epsilon']:.2f}",
            f"no answer becomes more than e^epsilon times as likely or unlikely through one {unit}",
        ),
        ("delta", f"{its['delta']:.1e}", "the chance that epsilon does not hold"),
        (
            "adjacency",
            its["adjacency"],
            f"zero-out: compared are these rows, and the same with one {unit}'s contribution set to 0",
        ),
        (
            "epsilon, replace-one",
            f"{its['epsilon_replace_one']:.2f}",
            f"the stricter reading: one {unit} against any other {unit}",
        ),
        (
            "undecided attacker",
            f"right in at most {wording.percent(wording.believed(its['epsilon'], its['delta']))}",
            f"of guesses whether one {unit}'s data were used, by the same epsilon and delta (50 %: by guessing)",
        ),
        (
            "noise multiplier",
            f"{its['noise_multiplier']:.3f}",
            "standard deviation of the noise in a step, as a multiple of the clip",
        ),
        ("clip", f"{its['clip']:g}", f"the most that one {unit} can contribute to a step (Euclidean norm)"),
        (
            "sampling rate",
            f"{its['sample_rate']:.4f} of {its['units']:,} {unit}s",
            f"the chance of each {unit} to be in a step",
        ),
        ("steps a round", f"{its['steps_a_round']}", "changes of the model, each with noise"),
        (
            "lifetime budget",
            f"epsilon {its['lifetime_epsilon']:g}",
            _lifetime(its),
        ),
        ("the plan's, not silo.toml's", theirs or "none of these numbers", "where silo.toml leaves it open"),
    ]


def _lifetime(its: Mapping[str, Any]) -> str:
    found = wording.recognised(its["lifetime_epsilon"], its["lifetime_delta"])
    return f"of these rows, all studies together, for ever: then at most {wording.percent(found)} instead of the share above"


def legend(facts: Facts) -> str:
    """The words of the two tables of tensors."""
    roles = {row["role"] for row in (*facts["tensors"], *facts["stays"])}
    told = "; ".join(f"{role}: {meaning}" for role, meaning in ROLES.items() if role in roles)
    return f"A tensor is one array of numbers of the model. Its role says what it is for. {told}."


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
        "Who asks and for what purpose is what the coordinator wrote; fedtl cannot check it.",
        "The approval holds what stands here. While silo.toml is looser, nothing leaves; it may be stricter at any time.",
        "A round on random rows gave exactly the tensors above. Each message is checked against the list before it "
        "leaves, and written down: fedtl silo ledger.",
        "That so many institutions are combined, and that updates are not kept, is the coordinator's word.",
        "The server sees when this institution takes part. A refusal is one word out of five; reasons stay in the record.",
    ]
    if facts["privacy"]:
        told.append(
            "The bound on what could be learnt follows from epsilon and delta alone (Kairouz, Oh and Viswanath, 2015)."
        )
    return told


def _shape(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes)) or "scalar"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, 108, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _beside(name: str, value: str, width: int = 24) -> list[str]:
    """A name and its value side by side, each in as many lines as it needs."""
    names = textwrap.wrap(name, width)
    lines = textwrap.wrap(value, 108 - width, break_long_words=False, break_on_hyphens=False)
    return [f"{left:<{width}} {right}".rstrip() for left, right in zip_longest(names, lines, fillvalue="")]


_ENVIRONMENT = Environment(
    loader=PackageLoader("fedtl.report", "."),
    autoescape=select_autoescape(default=True, default_for_string=True),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
