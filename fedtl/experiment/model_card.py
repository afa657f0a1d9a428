"""
What an exported model says of itself: ``README.md``, a model card (Mitchell et al., 2019) in the layout of Hugging Face, and ``config.json``.

A card of a private run has no exact figure of a silo's rows: the guarantee does not cover them, and an export may be handed on.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fedtl
from fedtl._util.counted import counted
from fedtl.data.columns import columns_of_inputs
from fedtl.errors import FedTLError
from fedtl.experiment.scores import estimate, read_answers
from fedtl.experiment.uncertainty import measure
from fedtl.models.folder_files import is_folder_name, shown_name
from fedtl.report.figures import TITLES, format_with_interval
from fedtl.report.page_notes import NO_PRIVACY, NOT_PRIVATE
from fedtl.report.wording import format_delta, format_epsilon, not_covered
from fedtl.results.run import RunResult

if TYPE_CHECKING:
    from fedtl.experiment.predict import SiloModel

CARD, CONFIG = "README.md", "config.json"
MAX_NAMED = 12  # silos, classes or columns in one sentence
LIMITS = (
    "It was tested on rows of one silo. Rows of another place, device or time may differ: test it there before it is used.",
    "It gives an answer to every row, also to one that is like none that it was trained on.",
    "It is not a medical device, and no decision on a person should rest on it alone.",
)


def write_card(model: "SiloModel", out: Path, about: Mapping[str, Any] | None) -> list[str]:
    """Write both files; return a line for each. ``about``: what ``model.json`` says of a net that was distilled."""
    config = {
        "model_type": "fedtl",
        "architectures": [model.settings.name],
        "settings": model.settings.settings,
        "task": model.task.name,
        "input_shape": list(model.shape),
        "num_labels": model.task.width(model.classes),
        "id2label": dict(enumerate(model.classes)),
        "label2id": {name: number for number, name in enumerate(model.classes)},
        "fedtl_version": fedtl.__version__,
    }
    (out / CARD).write_text("\n".join(_lines(model, about or {})))
    card = f"{out / CARD}: model card"
    if is_folder_name(model.settings.name):  # which has a config.json of its own
        return [card]
    (out / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
    return [card, f"{out / CONFIG}: as Hugging Face names it"]


def _lines(model: "SiloModel", about: Mapping[str, Any]) -> Iterator[str]:
    result, request = _result(model), model.experiment.request
    yield from ("---", "tags:", "- fedtl", "- federated-learning", "---", "")
    yield from (f"# A model of silo {_code(model.silo)}", "")
    yield from ("## Intended use", "")
    yield f"{model.task.name.capitalize()} of {_inputs(model)}, as silo {_code(model.silo)} has them{_labels(model)}."
    if request.purpose:
        yield f"Purpose of the study: {_code(request.purpose)}."
    yield "`predict.py`, where it is here, prepares rows as those of the silo were and needs no fedtl; `model.json` says how."
    yield from ("", "## How it was made", "")
    yield from (f"- {line}" for line in _made(model, result, about))
    yield from ("", "## Metrics", "")
    yield from _metrics(model, result, about)
    yield from ("", "## Privacy", "", _privacy(model, result), "")
    yield from ("## Limits", "", *(f"- {line}" for line in LIMITS), "")


def _made(model: "SiloModel", result: RunResult | None, about: Mapping[str, Any]) -> Iterator[str]:
    experiment = model.experiment
    yield f"method {_code(experiment.method.name)}, model {_code(shown_name(model.settings.name))}, {counted(experiment.rounds, 'round')}, seed {experiment.seed}, fedtl {fedtl.__version__}"
    if about.get("distilled"):
        yield "one net that was distilled from the silo's model; `model.json` has its own test results"
    if result is None:
        return
    names = [_code(name) for name in result.silos]
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    yield f"silos: {len(names)} ({', '.join(names[:MAX_NAMED])}{more})"
    if experiment.privacy is None and (own := result.silos.get(model.silo)):
        yield f"rows of this silo: {own.train} for training, {own.val} for validation, {own.test} for testing"
    if mark := result.fingerprints.get(model.silo):
        yield f"fingerprint of its rows: `{mark}`"
    for file in result.files:
        yield f"training began from {_code(file.name)} ({file.setting}), SHA-256 `{file.sha256}`"


def _metrics(model: "SiloModel", result: RunResult | None, about: Mapping[str, Any]) -> Iterator[str]:
    if model.experiment.privacy is not None:
        yield "None: exact results on private rows are not covered by the guarantee, so they are not in an export."
        return
    if result is None or not model.folder.has(f"silos/{model.silo}/test.safetensors"):
        yield "None were measured."
        return
    whose = "the model that this one was distilled from" if about.get("distilled") else "this model"
    yield f"Of {whose} on the test rows of the silo, which were read once, with 95 % intervals (Student's t, jackknife over rows or units):"
    yield from ("", "| metric | value |", "|---|---|")
    answers = read_answers(model.folder, model.silo, model.task)
    for metric in result.silos[model.silo].measured.figures:
        if metric in TITLES:
            own = estimate(metric, measure(metric, [answers], model.silo))
            yield f"| {TITLES[metric]} | {format_with_interval(metric, own)} |"


def _privacy(model: "SiloModel", result: RunResult | None) -> str:
    settings = model.experiment.privacy
    if settings is None:
        return NO_PRIVACY
    if settings.noise == "reproducible":
        return f"{NOT_PRIVATE}."
    own = (result.privacy.silos or {}).get(model.silo) if result and result.privacy else None
    said = (
        f"Differential privacy for each {settings.unit} ({result.privacy.adjacency}): epsilon = {format_epsilon(own.epsilon)} at delta = {format_delta(own.delta)} "
        f"at this silo, as its ledger records. "
        if own and result and result.privacy
        else ""
    )
    return (
        f"{said}{not_covered(settings.unit)} What left the silo in training has this guarantee. Its own model was tuned on its rows without "
        "noise: the labels in the file of weights say which tensors are `local-only`, and these must not leave the silo."
    )


def _inputs(model: "SiloModel") -> str:
    if inputs := model.inputs.columns:
        columns = columns_of_inputs(inputs, model.experiment.data)
        if len(columns) > MAX_NAMED or columns == list(map(str, range(len(inputs)))):
            return f"rows of {counted(len(columns), 'column')}"
        return f"rows with {'the columns' if len(columns) > 1 else 'the column'} {', '.join(map(_code, columns))}"
    return f"inputs of shape {' x '.join(map(str, model.shape))}"


def _labels(model: "SiloModel") -> str:
    if not model.classes:
        return ""
    more = f" and {len(model.classes) - MAX_NAMED} more" if len(model.classes) > MAX_NAMED else ""
    return f"; its answers: {', '.join(map(_code, model.classes[:MAX_NAMED]))}{more}"


def _code(text: str) -> str:
    """Return a name as inline code, in which Markdown has no meaning."""
    return f"`{' '.join(text.replace('`', chr(39)).split())}`"


def _result(model: "SiloModel") -> RunResult | None:
    """Return the result of a simulation; None for a model that was adopted in a deployment."""
    try:
        result = model.folder.result()
    except FedTLError:
        return None
    return result if model.silo in result.silos else None
