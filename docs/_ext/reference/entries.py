"""The entries that an experiment names: methods, loss terms, models, data sources, tasks, and smaller lists."""

import inspect
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fedtl.data.registry import DATA
from fedtl.experiment.config.resolve import about, describe
from fedtl.methods.base import Method
from fedtl.methods.heads.choose import HEADS
from fedtl.methods.label_free import without_labels
from fedtl.methods.losses import OnWeights, PerBatch, TaskLoss, Term
from fedtl.methods.measures import cka, hscore, logme
from fedtl.methods.optimizers import OPTIMIZERS
from fedtl.methods.private import private_problems
from fedtl.methods.registry import METHODS, TERMS
from fedtl.methods.server import ServerStep
from fedtl.models.registry import MODELS
from fedtl.models.roles import EVERYTHING
from fedtl.tasks.registry import TASKS
from fedtl.training.augment import CHANGES
from reference.markdown import blocks, code, escaped, prose, table
from reference.results import measured

CHOICE = Path(__file__).parents[2] / "howto" / "choose-a-method.md"
MEASURES = (cka.linear_cka, logme.logme, hscore.h_score)


def _section(name: str, text: str, facts: Iterable[tuple[str, str]]) -> str:
    rows = [(what, value) for what, value in facts if value]
    return f"## {code(name)}\n\n{text}\n\n" + (table(["", ""], rows) if rows else "")


def _settings(make: Callable[..., Any]) -> str:
    given = describe(make)
    return code(given) if given else "none"


def _text(make: Callable[..., Any]) -> str:
    return blocks(inspect.getdoc(make) or "")


def methods() -> str:
    """Return a section for each method."""
    return "\n\n".join(_method(name, make) for name, make in METHODS.items())


def _formula(name: str, make: Callable[..., Method]) -> str:
    """Return what the docstring of a term says after its summary, for a method that is made of this term."""
    text = (inspect.getdoc(TERMS[name]) or "").partition("\n\n")[2] if name in TERMS else ""
    return "" if text in (inspect.getdoc(make) or "") else f"\n\n{blocks(text)}"


def _terms(name: str, method: Method) -> str:
    """Return what the docstrings of a method's loss terms say, but of the task's loss and of a term that has the method's name."""
    kinds = dict.fromkeys(type(term) for term in method.every_term)
    own = TERMS.get(name)
    described = [_text(kind) for kind in kinds if kind not in (TaskLoss, own)]
    return "".join(f"\n\n**A term that is minimised with the task's loss.** {text}" for text in described)


def when_to_add(name: str) -> str:
    """Return the situations in which the page on the choice of a method names this one, and the yardsticks as such."""
    rows, _, yardsticks = CHOICE.read_text().partition("\n`local`")
    cells = [line.strip("| ").split(" | ") for line in rows.splitlines() if line.startswith("| ")]
    found = [
        situation for situation, methods in (one for one in cells if len(one) == 2) if code(name) in methods
    ]
    if code(name) in f"`local`{yardsticks.partition(':')[0]}":
        found.insert(0, "always, as a yardstick")
    return "; ".join(found)


def _method(name: str, make: Callable[..., Method]) -> str:
    method = make()
    return _section(
        name,
        _text(make) + _formula(name, make) + _terms(name, method),
        (
            ("when to add it", when_to_add(name)),
            ("settings", _settings(make)),
            ("leaves a silo in each round", _leaves(method)),
            ("stays at the silo", _stays(method)),
            ("cost", _cost(method)),
            ("at a silo without labels", without_labels(method)),
            ("with `[privacy]`", _private(method, name)),
            ("measured gain over training alone", measured(name)),
        ),
    )


def _leaves(method: Method) -> str:
    if method.pool:
        return "the rows themselves: all rows are in one place, in simulation only"
    parts = [", ".join(sorted(map(str, method.shared)))] if method.shared else []
    parts += [f"the slot {code(slot.name)}" for slot in method.slots if slot.crosses]
    for summary in method.summaries:
        of = "on public inputs" if summary.on_public else "over training rows"
        parts.append(
            f"the summary {code(summary.name)} (one vector {'an input' if summary.on_public else 'a row, of which the mean'} {of} leaves)"
        )
    return "; ".join(parts) or "nothing"


def _stays(method: Method) -> str:
    if method.pool:
        return ""
    parts = [", ".join(sorted(map(str, EVERYTHING - method.shared)))] if method.shared != EVERYTHING else []
    parts += [f"the slot {code(slot.name)}" for slot in method.slots if not slot.crosses]
    return "; ".join(parts) or "nothing but the rows"


def _cost(method: Method) -> str:
    """Return how much a silo trains and sends, as multiples of FedAvg."""
    phases = [phase for phase in method.phases if phase.epochs != 0]
    if not phases:
        return "no training in the rounds"
    trained = "one training" if len(phases) == 1 else f"{len(phases)} trainings"
    epochs = [f"{phase.epochs} epochs" for phase in phases if phase.epochs is not None]
    sets = 1 + sum(slot.crosses for slot in method.slots)
    sent = f"; sends {sets} sets of tensors" if method.shared and sets > 1 else ""
    return f"{trained} a round" + (f", of them one of {', '.join(epochs)}" if epochs else "") + sent


def _private(method: Method, name: str) -> str:
    if method.pool or name in ("local", "probe"):
        return "a yardstick: never private, never released"
    problems = list(private_problems(method))
    return escaped("refused: " + "; ".join(problems)) if problems else "possible"


def terms() -> str:
    """Return a section for each loss term."""
    return "\n\n".join(
        _section(
            name, _text(make), (("settings", _settings(make)), ("kind", _kind(make)), ("needs", _needs(make)))
        )
        for name, make in TERMS.items()
    )


def _kind(make: Callable[..., Term]) -> str:
    """Return what may be done with a term, which its base class decides."""
    if isinstance(make, type) and issubclass(make, PerBatch):
        return "depends on several examples together; refused with `[privacy]`"
    if isinstance(make, type) and issubclass(make, OnWeights):
        return "sees weights only; costs no privacy"
    return "one value an example; possible with `[privacy]` unless it samples rows of a second domain"


def _needs(make: Callable[..., Term]) -> str:
    needs = {"needs_target": "rows without labels, or a second domain", "needs_classes": "classes"}
    return ", ".join(text for key, text in needs.items() if getattr(make, key, False) is True)


def models() -> str:
    """Return a section for each built-in model."""
    return "\n\n".join(
        _section(name, _text(make), (("settings", _settings(make)),)) for name, make in MODELS.items()
    )


def sources() -> str:
    """Return a table of the data sources."""
    return table(
        ["source", "what it reads"], ([code(name), prose(source.about)] for name, source in DATA.items())
    )


def tasks() -> str:
    """Return a table of the tasks."""
    head = [
        "task",
        "labels",
        "metrics (the first ones are in every table)",
        "best by",
        "constant answer",
        "with `[privacy]`",
    ]
    return table(
        head,
        (
            [
                code(name),
                prose(task.about),
                ", ".join((*task.metrics, *task.further)).replace("_", " "),
                task.main.replace("_", " "),
                prose(task.constant),
                "possible" if task.per_example else "refused",
            ]
            for name, task in TASKS.items()
        ),
    )


def measures() -> str:
    """Return a section for each measure of representations."""
    return "\n\n".join(_section(make.__name__, _text(make), ()) for make in MEASURES)


def heads() -> str:
    """Return a section for each few-shot head of ``fedtl onboard``."""
    return "\n\n".join(f"### {code(name)}\n\n{_text(head)}" for name, head in HEADS.items())


def augment() -> str:
    """Return a table of the changes of ``train.augment``."""
    rows = ([code(name), prose(about(change)), code(_of_fields(change))] for name, change in CHANGES.items())
    return table(["name", "what it does", "settings"], rows)


def _of_fields(change: Callable[..., Any]) -> str:
    parameters = inspect.signature(change).parameters.values()
    return ", ".join(
        p.name if p.default is p.empty else f"{p.name} = {json.dumps(p.default)}" for p in parameters
    )


def server_steps() -> str:
    """Return what ``method.server.name`` can be."""
    names = ", ".join(code(name) for name in OPTIMIZERS)
    return f"{blocks(inspect.getdoc(ServerStep) or '')}\n\nOptimisers: {names}, with the arguments of torch's class."
