"""The names of the heads of a new silo, and sentences on its result. Computes no figure."""

from fedtl._util.counted import counted
from fedtl.report.figures import format_difference
from fedtl.results.onboard import HeadScore, OnboardResult, ShotsResult

HEAD_NAMES = {
    "chosen": "the head that the support chooses",
    "prototype": "nearest prototype",
    "scaled": "prototype, scaled to the task",
    "matching": "matching with attention",
    "ridge": "ridge in closed form",
    "linear": "linear, fine-tuned",
    "propagation": "label propagation (all test inputs at once)",
    "relation": "relation network",
    "received": "the shared head as received (no labels used)",
    "tuned": "received model, all of it tuned on the support",
    "alone": "own model, trained on the support alone",
    "mixed": "tuned and own model, probabilities averaged",
}
METRIC = "accuracy"


def ordered(part: ShotsResult) -> list[tuple[str, HeadScore]]:
    """Return the heads of one number of shots in the order in which they are shown, by their names."""
    return [(name, part.heads[key]) for key, name in HEAD_NAMES.items() if key in part.heads]


def chosen_note(part: ShotsResult) -> str:
    """Return which heads the support chose, and how often."""
    if not part.chosen:
        return "the support could choose none, so it is the nearest prototype"
    listed = "; ".join(f"{HEAD_NAMES[name]} {count}" for name, count in part.chosen.items())
    return f"chosen in {counted(part.episodes, 'episode')}: {listed}"


def answer(result: OnboardResult) -> str:
    """Return the result with the most labels in one sentence."""
    part = result.shots[-1]
    chosen = part.heads["chosen"]
    text = (
        f"With {counted(part.shots, 'label')} a class, {result.silo} answers {100 * chosen.mean:.1f} % of its test rows rightly "
        "by the head that its support chooses"
    )
    if chosen.over_alone:
        difference = format_difference(METRIC, chosen.over_alone.mean, chosen.over_alone.ci95)
        text += f"; against its own model, trained alone, that is {difference} points"
    if mixed := part.heads.get("mixed"):
        text += f". The received model, tuned, and its own model, averaged, answer {100 * mixed.mean:.1f} % rightly"
    return f"{text}."


def warnings(result: OnboardResult) -> list[str]:
    """Return what a reader must know before reading the numbers."""
    lines = []
    for part in result.shots:
        if part.short:
            listed = ", ".join(f"{name} ({count})" for name, count in part.short.items())
            lines.append(f"{counted(part.shots, 'shot')}: these classes have fewer labelled rows: {listed}")
    if any(part.episodes == 1 for part in result.shots) and any(part.episodes > 1 for part in result.shots):
        few = ", ".join(str(part.shots) for part in result.shots if part.episodes == 1)
        lines.append(
            f"{few} shots are all rows of every class, so all episodes would be the same; there is one, without an interval"
        )
    if result.new_classes:
        lines.append(f"classes that no silo of the run had: {', '.join(result.new_classes)}")
    if result.missing_classes:
        lines.append(
            f"no labelled training row of {', '.join(result.missing_classes)}: test rows of these count as wrong"
        )
    return lines


def notes(result: OnboardResult) -> list[str]:
    """Return how the numbers were made."""
    lines = [
        "An episode draws its labelled rows (the support) at random from the silo's training rows. Intervals are over episodes "
        "and hold for these test rows, which are the same in all episodes; differences are between the same episodes.",
        "The statistics of normalisation layers are the exact ones of all training inputs, which need no labels.",
        "The support chooses a head by leaving each part of its rows out in turn and predicting them. Test rows are used for measurement only. It does not choose between "
        "the two models that are trained, because leaving rows out would train each of them again for every part. These two take about as "
        "many steps as they would if all training rows had labels.",
        "Label propagation sees the inputs of up to 256 test rows at once, and none of their labels.",
    ]
    lines += [f"{HEAD_NAMES[name]} is left out: {reason}" for name, reason in result.left_out.items()]
    return [*lines, *result.notes, f"It took {result.seconds:.1f} s, seed {result.seed}."]
