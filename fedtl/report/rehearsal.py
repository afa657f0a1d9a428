"""
The page that a steward signs, as plain text and as HTML with the same facts in the same order.

First come the questions of a decision maker, then a technical table that explains its terms. Decides nothing.
"""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest

from fedtl.report import wording
from fedtl.report.html import Grid, render, row
from fedtl.report.questions import answers, audit, can_be_approved, overview
from fedtl.results.privacy import SiteGuarantee
from fedtl.results.rehearsal import RehearsalFacts

LEAVING = ("tensor", "role", "shape", "bytes", "differential privacy")
STAYING = ("tensor", "role", "shape")
ROLES = {
    "body": "the layers that compute features of an input",
    "head": "the last layer, which turns features into a prediction",
    "norm": "scale and shift of a normalisation layer",
    "stats": "means and variances that a normalisation layer computed from rows",
    "adapter": "a small trained module that is added to a layer which is not trained",
    "aux": "a part that is used only in training",
    "count": "the number of batches in training",
    "extra": "a tensor that the method keeps in addition to the model; its name begins with the name of its set",
    "summary": "a mean over vectors of the rows; with [policy.privacy] with noise, charged",
}


def text(facts: RehearsalFacts) -> str:
    """Return the page as plain text, at most 110 characters wide."""
    lines = [title(facts), "=" * len(title(facts)), ""]
    lines += [line for answer in answers(facts) for line in [*_wrapped(answer), ""]]
    for question, answer in overview(facts):
        lines += _two_columns(question, answer)
    lines += [
        "",
        "AUDIT ON YOUR OWN DATA",
        "",
        *(line for finding in audit(facts) for line in _wrapped(finding)),
    ]
    lines += ["", "IN DETAIL", ""]
    for name, value, meaning in details(facts):
        lines += _two_columns(name, value, 28) + (_two_columns("", meaning, 30) if meaning else [])
    if facts.leaving:
        lines += ["", _leaving_title(facts).replace("Leaves", "LEAVES"), "", *_wrapped(legend(facts)), ""]
        lines += _table(LEAVING, leaving(facts))
        lines += ["", _staying_title(facts).replace("Stays", "STAYS"), "", *_table(STAYING, staying(facts))]
    lines += ["", *(line for note in notes(facts) for line in _wrapped(f"* {note}")), ""]
    if can_be_approved(facts):
        lines += ["Approved for this institution:", ""]
        lines += ["name ____________________   date ______________   signature ____________________", ""]
    return "\n".join(lines)


def page(facts: RehearsalFacts) -> str:
    """Return the page as HTML, without scripts or requests."""
    return render(
        "rehearsal.html.j2",
        title=title(facts),
        warned=not (can_be_approved(facts) and facts.private),
        can_be_approved=can_be_approved(facts),
        answers=answers(facts),
        overview=overview(facts),
        audit=audit(facts),
        details=_grid("Every term of the approval", ("term", "value", "meaning"), details(facts)),
        legend=legend(facts),
        leaving=_grid(_leaving_title(facts), LEAVING, leaving(facts)),
        staying=_grid(_staying_title(facts), STAYING, staying(facts)),
        notes=notes(facts),
        version=f"with hash {facts.request.code[:12]}",
    )


def _grid(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Grid:
    return Grid(caption, head, [row(*cells) for cells in rows], words=True)


def _leaving_title(facts: RehearsalFacts) -> str:
    return f"Leaves in each round: {len(facts.leaving)} tensors, {facts.bytes:,} bytes"


def _staying_title(facts: RehearsalFacts) -> str:
    return f"Stays: the rows, and {len(facts.stays)} tensors"


def title(facts: RehearsalFacts) -> str:
    return f'May {facts.request.site} take part in the study "{facts.request.study}"?'


def details(facts: RehearsalFacts) -> list[tuple[str, str, str]]:
    """Return the technical table: (term, value, meaning)."""
    rows = [
        ("method", facts.plan.method, "which tensors are shared, and how they are trained"),
        ("model", f"{facts.plan.model}, inputs {_shape(facts.plan.shape)}", ""),
        (
            "rounds",
            f"{facts.plan.rounds} per study",
            "in each round the model arrives, is trained here, and its change leaves",
        ),
        (
            "institutions per round",
            f"at least {facts.plan.minimum_silos}",
            "the coordinator states this; the institution cannot verify it",
        ),
        (
            "results that leave",
            ", ".join(facts.plan.metrics) or "none",
            "measured on rows that are not used for training",
        ),
        (
            "number of rows leaves",
            "yes, as the weight" if facts.plan.weight else "no",
            "the coordinator can compute it from the noise" if facts.privacy else "",
        ),
        (
            "verdict leaves",
            "gains, as good, loses or unclear" if facts.plan.verdict else "no",
            "after the last round: this model against one that is trained here alone, on the test rows",
        ),
        (
            "largest update",
            f"{facts.plan.norm:g}",
            "Euclidean norm of everything that leaves in a round; a larger update is refused",
        ),
    ]
    if masks := facts.plan.masks:
        meaning = "the classes of the pixels of an image; every image and its mask stay here, and of the answers only the results above leave"
        rows.append(("masks", ", ".join(masks), meaning))
    for name, digest in facts.plan.files.items():
        rows.append(
            (
                f"file: {name}",
                digest,
                "SHA-256 of the copy that this institution needs; a file of other content is refused",
            )
        )
    if numbers := facts.plan.numbers:
        meaning = (
            "what the first stages of the model are worth here, computed on rows of this institution, without noise; these "
            f"{len(numbers)} leave once, in round {facts.plan.rounds}, each within its limits: {_by_limits(numbers)}"
        )
        rows.append(("what transfers leaves", f"{len(numbers)} numbers", meaning))
    if facts.plan.wire != "float32":
        meaning = "compressed after training, and after the noise where there is any; what is left out stays here as a residual and is added to the next update"
        rows.append(("weights are sent as", facts.plan.wire, meaning))
    for part in facts.parts:
        leaves_or_stays = "leaves in each round" if part.leaves else "stays here"
        rows.append(
            (
                f"set {part.name}",
                f"{part.bytes:,} bytes, {leaves_or_stays}",
                "kept in addition to the model",
            )
        )
    if facts.tuning:
        rows.append(
            (
                "tuning on private data",
                facts.tuning,
                "whether settings were chosen by looking at private rows",
            )
        )
    if privacy := facts.privacy:
        rows += _privacy(privacy)
    return [
        *rows,
        ("hash of the plan", facts.request.plan, "identifies the content: any change gives another hash"),
        (
            "hash of the bundle",
            facts.request.bundle or "none: rehearse the bundle (.fab file) before approving",
            "",
        ),
        ("hash of what leaves", facts.manifest, ""),
        ("hash of the installed fedtl", facts.request.code, ""),
    ]


def _by_limits(numbers: Mapping[str, Sequence[float]]) -> str:
    """Return the names of the numbers after the limits that they share."""
    names: dict[str, list[str]] = {}
    for name, (low, high) in numbers.items():
        names.setdefault(f"{low:g} to {high:g}", []).append(name)
    return "; ".join(f"{limits}: {', '.join(own)}" for limits, own in names.items())


def _privacy(privacy: SiteGuarantee) -> list[tuple[str, str, str]]:
    unit, delta = privacy.unit, wording.format_delta(privacy.delta)
    from_plan = ", ".join(name.replace("_", " ") for name in privacy.from_plan)
    return [
        (
            "epsilon",
            wording.format_epsilon(privacy.epsilon, 2),
            f"one {unit} changes the probability of anything that leaves by at most a factor of e^epsilon",
        ),
        ("delta", delta, "and, beyond this factor, by at most this probability"),
        (
            "adjacency",
            privacy.adjacency,
            f"zero-out: these rows are compared with the same rows where the contribution of one {unit} is 0",
        ),
        (
            "epsilon, replace-one",
            wording.format_epsilon(privacy.epsilon_replace_one, 2),
            f"stricter: one {unit} is replaced by any other {unit}",
        ),
        (
            "attacker without prior knowledge",
            f"right in at most {wording.format_percent(wording.max_guess_accuracy(privacy.epsilon, privacy.delta))}",
            f"of guesses whether one {unit}'s data were used, by the same epsilon and delta (random guess: 50 %)",
        ),
        (
            "noise multiplier",
            f"{privacy.noise_multiplier:.3f}",
            "standard deviation of the noise in a step, as a multiple of the clip",
        ),
        (
            "clip",
            f"{privacy.clip:g}",
            f"the most that one {unit} can contribute to a step (Euclidean norm)",
        ),
        (
            "sampling rate",
            f"{privacy.sample_rate:.4f} of {privacy.units:,} {unit}s",
            f"the probability that a {unit} is in a step",
        ),
        ("steps a round", f"{privacy.steps_a_round}", "optimiser steps, each with noise"),
        (
            "lifetime budget",
            f"epsilon {privacy.lifetime_epsilon:g}",
            wording.once_spent(privacy.lifetime_epsilon, privacy.lifetime_delta),
        ),
        ("numbers from the plan", from_plan or "none", "silo.toml does not set them, so the plan does"),
    ]


def legend(facts: RehearsalFacts) -> str:
    """Explain the terms of the two tables of tensors."""
    roles = {row.role for row in (*facts.leaving, *facts.stays)}
    meanings = "; ".join(f"{role}: {meaning}" for role, meaning in ROLES.items() if role in roles)
    return f"A tensor is one array of numbers of the model. Its role says what it is for. {meanings}."


def leaving(facts: RehearsalFacts) -> list[tuple[str, ...]]:
    status = "noisy" if facts.private else "none"
    return [(row.name, row.role, _shape(row.shape), f"{row.bytes:,}", status) for row in facts.leaving]


def staying(facts: RehearsalFacts) -> list[tuple[str, ...]]:
    return [(row.name, row.role, _shape(row.shape)) for row in facts.stays]


def notes(facts: RehearsalFacts) -> list[str]:
    lines = [
        "The coordinator wrote who asks and for what purpose; fedtl cannot verify it.",
        "The approval is for the terms on this page. If silo.toml becomes less strict than this page, nothing leaves; it may "
        "become stricter at any time.",
        "A round on random rows produced exactly the tensors above. Each message is compared with this list before it leaves, "
        "and recorded; fedtl silo ledger prints the record.",
        "The coordinator states that it combines this many institutions and does not keep updates; fedtl cannot verify it.",
        "The server sees when this institution takes part. If a round is refused, the server receives one of six codes; the "
        "reason is recorded only here.",
    ]
    if facts.privacy:
        lines.append(
            "The bound on what could be learnt follows from epsilon and delta alone (Kairouz, Oh and Viswanath, 2015)."
        )
    return lines


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


def _two_columns(name: str, value: str, width: int = 24) -> list[str]:
    """Return the lines of two columns, a name and its value; long texts are wrapped."""
    names = textwrap.wrap(name, width)
    lines = textwrap.wrap(value, 108 - width, break_long_words=False, break_on_hyphens=False)
    return [f"{left:<{width}} {right}".rstrip() for left, right in zip_longest(names, lines, fillvalue="")]
