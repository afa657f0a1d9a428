"""Silos whose labels are not used (``data.unlabelled``): what a method does there, and where that cannot work."""

from collections.abc import Collection, Iterable, Iterator, Sequence

from fedtl.data.deal import BY_LABEL
from fedtl.data.prepare import declared_classes
from fedtl.errors import ConfigError
from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.config.schema import Experiment
from fedtl.methods.base import HEAD, Method, trains_on_all_rows
from fedtl.methods.label_free import made_with_labels, trains_body_alone, without_labels
from fedtl.methods.registry import METHODS
from fedtl.models.roles import Role

THERE = "their test labels are used for measurement only; there, "  # what follows is of one method


def no_silo_has_labels(experiment: Experiment, training: Collection[str]) -> bool:
    """Return whether no label of any of the silos that train is used."""
    return set(training) <= set(experiment.data.unlabelled)


def check_all_unlabelled(experiment: Experiment) -> None:
    """Raise ConfigError where no silo that trains has labels, and the method needs some."""
    if not trains_body_alone(method_of(experiment.method)):
        names = ", ".join(name for name, make in METHODS.own.items() if trains_body_alone(make()))
        raise ConfigError(
            "no silo has labels: all that train are in data.unlabelled; remove one there, or train the body alone by a method that needs "
            f'no labels ({names}; method.head = "own")'
        )
    if experiment.data.predicted.has_classes and not declared_classes(experiment.data):
        raise ConfigError("no silo has labels, so the classes are not known; list them in data.classes")


def check_unlabelled(experiment: Experiment, method: Method, training: Collection[str]) -> None:
    """
    Raise ConfigError where a method of several silos keeps at each silo what labels train, so that one without labels would
    get no model. A method that trains every silo alone leaves such a silo out. ``training``: the silos that train; where none
    has labels, a method may train their body alone.
    """
    if no_silo_has_labels(experiment, training) and trains_body_alone(method):
        return
    if not experiment.data.unlabelled or not method.shared or not (missing := made_with_labels(method)):
        return
    kept = ", ".join("a personal model" if role is Role.EXTRA else f"the {role}" for role in sorted(missing))
    raise ConfigError(
        f"data.unlabelled: {experiment.data.unlabelled[0]} has no labels, but method {experiment.method.name!r} trains {kept} "
        f"at each silo on labels; use {', '.join(usable_methods())}{_or_shared_head(missing, method)}"
    )


def _or_shared_head(missing: frozenset[Role], method: Method) -> str:
    """Return the way out of a method whose rounds need no labels (``methods.self_supervised``)."""
    return '; or set method.head = "shared"' if missing == HEAD and trains_on_all_rows(method) else ""


def usable_methods() -> list[str]:
    """Return the names of fedtl's own methods with their default settings that give a silo without labels a model."""
    return [name for name, make in METHODS.own.items() if not made_with_labels(make())]


def label_notes(experiment: Experiment, method: Method, silos: Sequence[str]) -> Iterator[str]:
    """Yield a note for the silos whose labels are not used. ``silos``: those that train or hold unlabelled rows."""
    data = experiment.data
    if unlabelled := [name for name in silos if name in data.unlabelled]:
        yield (
            f"labels of training and validation rows are not used at {', '.join(unlabelled)} (data.unlabelled); "
            f"{THERE}{_done_there(experiment, method, silos)}"
        )
        if data.deal is not None and data.deal.by in BY_LABEL:
            yield (
                f'data.deal.by = "{data.deal.by}" deals rows by their labels, those of data.unlabelled too: which rows each silo has '
                'depends on them; "size" and "iid" look at no label'
            )
    elif data.missing_labels != "inputs" and any(step.at == "unlabelled" for step in method.steps):
        yield (
            f"{experiment.method.name} fits the model after the last round, at silos without labels only; data.unlabelled names no silo "
            "that takes part, so this has no effect; list a silo there, or use another method"
        )
    between = [type(term).__name__ for term in method.losses if term.needs_target and term.summaries()]
    if data.target_domain and between:
        yield (
            f"{between[0]} compares silos with and without labels by what they send, and rows of data.target_domain are not sent; "
            "for a second domain of the same silo use mmd, coral or dann"
        )
    if data.label_fraction != 1.0:
        yield f"only a share of the labels of training and validation rows is used (data.label_fraction = {_shares(data.label_fraction)})"
    if data.missing_labels == "inputs":
        yield 'rows without a label are inputs without labels (data.missing_labels = "inputs"); rows with one are divided into parts first'


def _done_there(experiment: Experiment, method: Method, silos: Sequence[str]) -> str:
    """Return what a method does at silos without labels."""
    name = experiment.method.name
    if no_silo_has_labels(experiment, silos) and trains_body_alone(method):
        return f"{name} trains their body, which has no head yet: fedtl onboard makes one from few labels"
    if made_with_labels(method):
        return f"method {name} gives them no model: it trains on each silo's own labels"
    return f"{name} {without_labels(method)}"


def joined_notes(notes: Iterable[str]) -> Iterator[str]:
    """Yield each note once; those that differ only in what a method does at silos without labels as one note."""
    by_method: dict[str, list[str]] = {}
    for note in dict.fromkeys(notes):
        first, _, what = note.partition(THERE)
        by_method.setdefault(first, []).append(what)
    for first, done in by_method.items():
        yield f"{first}{THERE}{'; '.join(done)}" if any(done) else first


def _shares(fraction: float | dict[str, float]) -> str:
    if isinstance(fraction, dict):
        return ", ".join(f"{name}: {share:g}" for name, share in fraction.items())
    return f"{fraction:g}"
