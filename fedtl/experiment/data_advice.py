"""
What a person may do about the data: rules of thumb, each with the number that it follows from.

No run reads a recommendation. Labels of test rows are not looked at: only training rows and counts of copies.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from fedtl._util.counted import counted
from fedtl.results.data_report import DataReport, LabelShift, Recommendation, SiloRows

FEW = 10  # training rows of a class
RARE = 0.1  # share of the rarest class in all training rows
FAR = 0.8  # low end of the interval of the AUC from which a silo's inputs look far
ALIKE = 0.6  # high end up to which silos' inputs look alike
LABELS_APART, BY_CHANCE = 0.3, 0.001  # the distance of labels and its p-value
GAPS, NO_GAPS = 0.5, 0.1  # shares of missing cells at one silo and at another
LARGE = 10  # times the training rows of the smallest silo
COPIES = 0.05  # share of a silo's training rows
MOST_LISTED = 6
LEAK = "a test row that is a training row makes a test result too good"


def recommendations(report: DataReport) -> tuple[Recommendation, ...]:
    """Return the recommendations for an experiment, those that can make a result wrong first."""
    rules = (_of_common_rows, _of_rare_class, _of_gaps, _of_labels, _of_inputs, _of_sizes)
    return (*of_own_rows(report.silos), *(one for rule in rules for one in rule(report)))


def of_own_rows(silos: Mapping[str, SiloRows]) -> Iterator[Recommendation]:
    """Yield what follows from the rows of each silo alone."""
    yield from _of_own_copies(silos)
    yield from _of_single_classes(silos)
    yield from _of_few_rows(silos)


def _of_own_copies(silos: Mapping[str, SiloRows]) -> Iterator[Recommendation]:
    copies = {
        name: silo.tested_on_training_rows for name, silo in silos.items() if silo.tested_on_training_rows
    }
    if copies:
        listed = _listed([f"{name} {count} of {silos[name].test}" for name, count in copies.items()])
        text = f"test rows have the inputs of a training row of the silo ({listed}): remove the copies"
        yield Recommendation(tuple(copies), text, max(copies.values()), LEAK)


def _of_single_classes(silos: Mapping[str, SiloRows]) -> Iterator[Recommendation]:
    for name, silo in silos.items():
        if len(silo.trained) == 1:
            rows = sum(silo.trained.values())
            text = (
                f"{name} has {rows} training rows of one class: a model that it trains alone predicts nothing else; list it in data.unlabelled, where it "
                "receives the shared model and is scored, or in data.silos_except"
            )
            yield Recommendation((name,), text, rows, "all training rows of a silo have one label")


def _of_few_rows(silos: Mapping[str, SiloRows]) -> Iterator[Recommendation]:
    least = {
        name: min(silo.trained.items(), key=lambda item: item[1])
        for name, silo in silos.items()
        if len(silo.trained) > 1
    }
    few = {name: own for name, own in least.items() if own[1] < FEW}
    if few:
        listed = _listed([f"{name} {count} of class {label}" for name, (label, count) in few.items()])
        text = f"a class has few training rows ({listed}): compare methods whose head is shared, such as fedavg or silobn"
        lowest = min(count for _, count in few.values())
        yield Recommendation(
            tuple(few), text, lowest, f"fewer than {FEW} training rows of a class that a silo has"
        )


def _of_common_rows(report: DataReport) -> Iterator[Recommendation]:
    for pair, count in report.between.leaked.items():
        one, other = pair.split(", ")
        have = "has" if count == 1 else "have"
        text = f"{counted(count, 'test row')} of {one} {have} the inputs of training rows of {other}: remove these rows at {one}"
        yield Recommendation((one, other), text, count, LEAK)
    for pair, count in report.common.items():
        one, other = pair.split(", ")
        share = count / max(1, min(report.silos[one].train, report.silos[other].train))
        if share > COPIES:
            text = f"{one} and {other} have {count} training rows in common: keep them at one silo"
            rule = f"more than {COPIES:.0%} of the training rows of the smaller silo"
            yield Recommendation((one, other), text, count, rule)


def _of_rare_class(report: DataReport) -> Iterator[Recommendation]:
    total = sum((Counter(silo.trained) for silo in report.silos.values()), Counter[str]())
    share = min(total.values()) / total.total() if len(total) == 2 else 1.0
    if share < RARE:
        text = f"{share:.1%} of all training rows have the rarer label: compare by AUC (compare.metric), because accuracy says little"
        rule = f"the rarer of two labels has less than {RARE:.0%} of the training rows"
        yield Recommendation((), text, share, rule)


def _of_gaps(report: DataReport) -> Iterator[Recommendation]:
    found: dict[str, tuple[str, float]] = {}
    for column in dict.fromkeys(column for own in report.between.gaps.values() for column in own):
        shares = {name: own.get(column, 0.0) for name, own in report.between.gaps.items()}
        most = max(shares, key=lambda name: shares[name])
        if shares[most] > GAPS and min(shares.values()) < NO_GAPS:
            found[column] = most, shares[most]
    if found:
        listed = _listed(
            [f"{column}, {share:.0%} at {most}" for column, (most, share) in found.items()], "; "
        )
        text = f"columns are mostly missing at some silos and not at others ({listed}): compare the result with data.drop"
        rule = f"more than {GAPS:.0%} of a column's cells are missing at one silo, less than {NO_GAPS:.0%} at another"
        silos = tuple(dict.fromkeys(most for most, _ in found.values()))
        yield Recommendation(silos, text, max(share for _, share in found.values()), rule)


def _of_labels(report: DataReport) -> Iterator[Recommendation]:
    apart = {
        name: shift
        for name, shift in report.between.labels.items()
        if shift.distance > LABELS_APART and shift.p < BY_CHANCE
    }
    if apart:
        far = max(apart, key=lambda name: apart[name].distance)
        text = f"the labels of {_listed(list(apart))} differ from those of the others ({_worded(far, apart)}): compare fedper, fedrep or fedtl, whose heads stay at a silo"
        yield Recommendation(
            tuple(apart),
            text,
            apart[far].distance,
            f"a distance above {LABELS_APART} with p below {BY_CHANCE}",
        )


def _worded(far: str, apart: Mapping[str, LabelShift]) -> str:
    return f"distance {apart[far].distance:.2f} at {far}"


def _of_inputs(report: DataReport) -> Iterator[Recommendation]:
    inputs = report.between.inputs
    far = [name for name, one in inputs.items() if one.ci95[0] > FAR]
    if far:
        most = max(far, key=lambda name: inputs[name].auc)
        text = (
            f"the inputs of {_listed(far)} look far from those of the others (AUC {inputs[most].auc:.2f} at {most}): check units and "
            "preparation, and compare fedbn, silobn and mrmtl with fedavg"
        )
        yield Recommendation(
            tuple(far), text, inputs[most].auc, f"the interval of the AUC lies above {FAR}; 0.5 is chance"
        )
    alike = [name for name, one in inputs.items() if one.ci95[1] < ALIKE]
    if len(alike) > 1:
        most = max(alike, key=lambda name: inputs[name].auc)
        text = f"the inputs of {_listed(alike)} look alike (AUC at most {inputs[most].auc:.2f}): compare fedavg, which shares all, first"
        yield Recommendation(
            tuple(alike), text, inputs[most].auc, f"the interval of the AUC lies below {ALIKE}; 0.5 is chance"
        )


def _of_sizes(report: DataReport) -> Iterator[Recommendation]:
    rows = {name: silo.train for name, silo in report.silos.items() if silo.train}
    if len(rows) < 2:
        return
    large, small = max(rows, key=lambda name: rows[name]), min(rows, key=lambda name: rows[name])
    if rows[large] > LARGE * rows[small]:
        share = rows[large] / sum(rows.values())
        text = (
            f"{large} has {rows[large]} training rows and {small} {rows[small]}: the mean of the weights counts rows, so {large} has "
            f"{share:.0%} of it; look at the result of each silo, not only at the mean"
        )
        yield Recommendation(
            (large, small),
            text,
            share,
            f"the largest silo has more than {LARGE} times the rows of the smallest",
        )


def _listed(texts: Sequence[str], between: str = ", ") -> str:
    rest = len(texts) - MOST_LISTED
    return between.join(texts[:MOST_LISTED]) + (f" and {rest} more" if rest > 0 else "")
