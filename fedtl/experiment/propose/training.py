"""Guesses about model, training and comparison, from the shapes and counts of what was read."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedtl.data import prepare
from fedtl.data.labels import label_texts
from fedtl.data.source import Raw
from fedtl.experiment.config.load import parse_experiment
from fedtl.experiment.data_advice import RARE
from fedtl.experiment.data_schema import DataSchema, read_data_schema
from fedtl.experiment.propose.guess import Guess, listed

MANY_COLUMNS = 100
LARGE_SIDE = 96  # pixels, from which on images are read smaller
SMALLER = 64
FEW_TEST_ROWS = 60  # of a silo
FOLDS = 5
ROUNDS = 20
RATE = 0.02


@dataclass(frozen=True)
class ReadRows:
    """``schema``: of all silos. ``labels``: how many rows of each label a silo has; ``rows``: of all its parts; ``with_test``: silos with test rows of their own."""

    schema: DataSchema
    labels: Mapping[str, Counter[str]]
    rows: Mapping[str, int]
    with_test: frozenset[str]


def read_rows(data: Mapping[str, Any]) -> ReadRows:
    """Read the rows of all silos once. Raises ConfigError or DataError as training would."""
    experiment = parse_experiment({"data": data})
    settings = experiment.data
    labels, rows, with_test = dict[str, Counter[str]](), dict[str, int](), set[str]()

    def read(name: str) -> Raw:
        raw = prepare.read_silo(settings, name)
        labels[name] = Counter(label_texts(raw.train.y)) if settings.predicted.has_classes else Counter()
        rows[name] = len(raw.train.y)
        if raw.test is not None:
            with_test.add(name)
        return raw

    return ReadRows(read_data_schema(experiment, read), labels, rows, frozenset(with_test))


def training_guesses(read: ReadRows) -> Iterator[Guess]:
    """Yield model, training and comparison."""
    yield from _model(read.schema.shape)
    yield Guess(
        "rounds",
        str(ROUNDS),
        "take more if the curves of the report still rise at the end",
        settings={"rounds": ROUNDS},
    )
    yield _methods(read)
    yield from _metric(read)
    yield _repetitions(read)


def _model(shape: tuple[int, ...]) -> Iterator[Guess]:
    rate = {"train.lr": RATE}
    if len(shape) == 1:
        doubt = "for few rows and many columns: linear" if shape[0] > MANY_COLUMNS else ""
        yield Guess(
            "model", "mlp", f"a row of the table gives {shape[0]} inputs", doubt, {"model.name": "mlp"}
        )
        rate["train.momentum"] = 0.0
    elif len(shape) == 2:
        why = f"the inputs are series of {shape[1]} steps; gru is the other model for them"
        yield Guess("model", "convnet1d", why, settings={"model.name": "convnet1d"})
    else:
        yield from _image_model(shape[1:])
    yield Guess(
        "learning rate",
        str(RATE),
        "take a lower one if the curves of the report jump up and down",
        settings=rate,
    )


def _image_model(sides: tuple[int, ...]) -> Iterator[Guess]:
    text = " x ".join(map(str, sides))
    if len(sides) == 2 and max(sides) > LARGE_SIDE:
        why = f"{text} px would take long with a model that starts from nothing"
        yield Guess("size", f"{SMALLER} px", why, settings={"data.size": SMALLER})
    doubt = ""
    if len(sides) == 2 and min(sides) >= SMALLER:
        doubt = "a pretrained model often needs fewer rows: --set model.name=resnet18 --set model.weights=pretrained --set data.size=224"
    kind = "images" if len(sides) == 2 else "volumes"
    yield Guess("model", "convnet", f"the inputs are {kind} of {text} px", doubt, {"model.name": "convnet"})


def _methods(read: ReadRows) -> Guess:
    names = ["local", "local ensemble", "pooled", "fedavg", "fedbn", "fedtl"]
    why = "the first three are yardsticks without federation; the others differ in what is shared"
    sets = {frozenset(own) for own in read.labels.values() if own}
    if len(sets) > 1:
        names.insert(-1, "fedper")
        why = f"{why}; fedper because silos have different labels"
    return Guess("methods", listed(names, 9), why, settings={"compare.methods": names})


def _metric(read: ReadRows) -> Iterator[Guess]:
    total = sum(read.labels.values(), Counter[str]())
    if len(total) == 2 and (share := min(total.values()) / total.total()) < RARE:
        why = f"{share:.1%} of all rows have the rarer label, so accuracy says little"
        yield Guess("metric", "auc", why, settings={"compare.metric": "auc"})


def _repetitions(read: ReadRows) -> Guess:
    """Return seeds, and folds where a single draw of test rows would show little."""
    smallest = min(read.rows, key=lambda name: read.rows[name])
    test, total = round(0.2 * read.rows[smallest]), sum(read.labels.values(), Counter[str]())
    enough = min(total.values(), default=2 * FOLDS) >= 2 * FOLDS and read.rows[smallest] >= 2 * FOLDS
    if read.with_test or test >= FEW_TEST_ROWS or not enough:
        doubt = (
            f"{smallest} has about {test} test rows a seed: its interval will be wide"
            if test < FEW_TEST_ROWS and not read.with_test
            else ""
        )
        return Guess(
            "seeds",
            "0, 1, 2",
            "the fewest seeds that show how a result changes from one training to the next",
            doubt,
            {"compare.seeds": [0, 1, 2]},
        )
    why = f"silo {smallest} would have {test} test rows; so each of its {read.rows[smallest]} rows is a test row once"
    return Guess(
        "folds",
        str(FOLDS),
        why,
        "",
        {"compare.folds": FOLDS, "compare.seeds": [0]},
    )
