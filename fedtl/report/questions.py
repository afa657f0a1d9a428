"""The first part of the page that a steward signs: the questions of a decision maker, answered from the rehearsal's facts."""

from fedtl.report import wording
from fedtl.results.rehearsal import RehearsalFacts

KEPT = {
    "head": "the last layer of the model (head)",
    "stats": "the means and variances of normalisation layers (stats)",
    "norm": "the scales and shifts of normalisation layers (norm)",
    "body": "layers before the last one (body)",
    "adapter": "small modules added to layers that are not trained (adapter)",
    "extra": "further tensors that the method keeps (extra)",
}


def can_be_approved(facts: RehearsalFacts) -> bool:
    """Return whether the plan on the page can be approved as it is."""
    return not facts.refused and facts.complete


def answers(facts: RehearsalFacts) -> list[str]:
    """Return the lines that a steward has to read first."""
    if facts.refused:
        return [f"REFUSED by this institution's own policy: {facts.refused}. This plan cannot be approved."]
    if not facts.complete:
        return [f"INCOMPLETE: {facts.rows_error}. This plan cannot be approved until the rows can be read."]
    if (privacy := facts.privacy) is None:
        return ["WITHOUT differential privacy: what leaves can reveal information about a single person."]
    return [
        f"With differential privacy for every {privacy.unit}: random noise limits what can be learnt about one "
        f"{privacy.unit}, to the bound below (epsilon {wording.format_epsilon(privacy.epsilon, 2)}, delta {wording.format_delta(privacy.delta)}, for all "
        "rounds of a study together)."
    ]


def overview(facts: RehearsalFacts) -> list[tuple[str, str]]:
    """Return the questions of a decision maker, each with its answer."""
    unit = facts.privacy.unit if facts.privacy else "record"
    rows = [
        (
            "Who asks",
            f"{facts.request.asked_by or 'Not stated'} (written by the coordinator), through the server {facts.request.server}.",
        ),
        ("For what purpose", facts.request.purpose or "Not stated."),
        ("Which rows", _rows(facts, unit)),
        ("Which columns", _columns(facts)),
    ]
    if facts.leaving:
        rows += [("What would leave", _leaves(facts)), ("How often, until when", _how_often(facts))]
    if can_be_approved(facts):
        protected = unit if facts.private else "person"
        rows.append((f"What could be learnt about one {protected}", _learnt(facts, unit)))
        rows += [("Who is not covered", wording.not_covered(unit))] if facts.private else []
    if facts.stays:
        rows.append(("What stays here", _stays(facts)))
    return rows


def _rows(facts: RehearsalFacts, unit: str) -> str:
    source = f"{facts.plan.source} {facts.plan.path}".strip()
    if facts.records is None:
        return f"The number is not known yet. Source: {source}."
    if facts.unlabelled and facts.records:
        return (
            f"{facts.records:,} records with a label for training, and {facts.unlabelled:,} without, which are inputs only "
            f"(data.missing_labels in silo.toml); others are kept for testing. Source: {source}."
        )
    if facts.unlabelled:
        return (
            f"{facts.unlabelled:,} records for training, whose labels are not used (data.unlabelled in silo.toml); others are kept for "
            f"testing, and their labels are used for measurement only. Source: {source}."
        )
    records = "" if unit == "record" else f" with {facts.rows:,} records"
    return f"{facts.records:,} {unit}s{records} for training; others are kept for testing. Source: {source}."


def _columns(facts: RehearsalFacts) -> str:
    label = repr(facts.plan.label) if facts.plan.source == "table" else "the label of each row"
    if facts.plan.columns:
        return f"{', '.join(facts.plan.columns)}; to predict: {label}. The model uses no other column."
    if len(facts.plan.shape) == 1:
        return f"{facts.plan.shape[0]} numbers by position, without names; to predict: {label}."
    channels = "1 channel" if facts.plan.shape[0] == 1 else f"{facts.plan.shape[0]} channels"
    size = " x ".join(map(str, facts.plan.shape[1:]))
    return f"Images of {size} pixels with {channels}; to predict: {label}."


def _leaves(facts: RehearsalFacts) -> str:
    noise = "with random noise" if facts.private else "without noise"
    figures = ", ".join(facts.plan.metrics)
    sentences = [
        f"The change that training here makes to {len(facts.leaving)} arrays of the model's numbers, {noise}: "
        f"{facts.bytes:,} bytes a round.",
        f"The {figures} on rows that are not used for training."
        if figures
        else "No accuracy or other result.",
    ]
    if facts.privacy and facts.records is not None:
        sentences.append(wording.size_is_public(facts.records, facts.privacy.unit))
    elif not facts.private:
        sentences.append("The number of rows." if facts.plan.weight else "The number of rows does not leave.")
    if numbers := facts.plan.numbers:
        sentences.append(
            f"With the last round {len(numbers)} numbers about how well the first stages of the model suit these rows, without noise; the "
            "details list them."
        )
    if facts.plan.verdict:
        sentences.append(
            "After the last round one word: whether taking part helped this institution, by its own test rows (gains, as good, loses or unclear)."
        )
    return " ".join([*sentences, "No row leaves."])


def _how_often(facts: RehearsalFacts) -> str:
    studies = "1 study" if facts.request.studies == 1 else f"{facts.request.studies} studies"
    total = facts.bytes * facts.plan.rounds * facts.request.studies
    return (
        f"In at most {facts.plan.rounds} rounds of {studies}, {total:,} bytes in all. Nothing leaves under this approval "
        f"after {facts.request.until} (UTC)."
    )


def _learnt(facts: RehearsalFacts, unit: str) -> str:
    privacy = facts.privacy
    if privacy is None:
        return wording.without_privacy()
    if facts.request.studies == 1:
        return wording.worst_case(privacy.epsilon, privacy.delta, unit)
    epsilon = min(privacy.epsilon * facts.request.studies, privacy.lifetime_epsilon)
    sentence = wording.worst_case(epsilon, privacy.delta * facts.request.studies, unit)
    return f"{sentence} (All {facts.request.studies} studies together.)"


def _stays(facts: RehearsalFacts) -> str:
    roles = {row.role for row in facts.stays}
    kept = "".join(f", {words}" for role, words in KEPT.items() if role in roles)
    return f"Every row{kept}. Each message is checked and recorded here before it leaves."


def audit(facts: RehearsalFacts) -> list[str]:
    """Return what an audit on the institution's own rows measured, or how to run one."""
    if not can_be_approved(facts):
        return ["Not run, because this plan cannot be approved as it is."]
    if facts.audit is not None:
        return list(facts.audit)
    if not facts.private:
        return ["Not run: without differential privacy there is no claim to test."]
    command = f"fedtl silo audit {facts.folder}"
    return [
        f"Not run. An audit tests the privacy guarantee on your own rows; nothing leaves. Run: {command}, then rehearse again."
    ]
