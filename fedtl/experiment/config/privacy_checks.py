"""What in an experiment would go past the noise, and what a reader of its epsilon should ask about."""

from collections.abc import Iterator
from pathlib import Path

from fedtl.data.settings import SCALES
from fedtl.errors import ConfigError
from fedtl.experiment.config.resolve import method_of, privacy_of
from fedtl.experiment.config.schema import Experiment, MethodSettings
from fedtl.methods.private import private_problems
from fedtl.methods.registry import METHODS
from fedtl.models.roles import Role
from fedtl.privacy import taint_metadata as marks
from fedtl.report.wording import not_covered

LARGE = 10.0  # an epsilon that promises little
DECLARED = "{}: taken as declared; if they were read off the private rows, nothing here covers that"
UNCOVERED = "model.weights: if the file was trained on these rows without noise, nothing here covers that"
ALIKE = {  # what a result says once, of all its silos
    "unit": "who is protected is the same",
    "noise": "whether noise can be drawn again is the same",
    "tuning": "where the settings come from is the same",
}


def unsound(experiment: Experiment) -> Iterator[str]:
    """Reasons for which ``[privacy]`` would be untrue, one line each; none: it may be trained."""
    if experiment.privacy is None:
        if experiment.silo:
            yield f"silo.{next(iter(experiment.silo))} changes [privacy], and there is no [privacy]"
        if experiment.data.scale == "dp":
            yield 'data.scale = "dp" releases mean and spread under [privacy], and there is no [privacy]; use "silo"'
        return
    method, data, name = method_of(experiment.method), experiment.data, experiment.method.name
    if method.pool or not (method.shared or any(slot.crosses for slot in method.slots) or method.summaries):
        yield f"method {name!r} is a yardstick and never private; leave [privacy] out of it"
    yield from (f"[privacy] and method {name!r}: {problem}" for problem in private_problems(method))
    if data.scale == "dp" and Role.STATS in method.shared:
        yield (
            f'data.scale = "dp" and method {name!r}: it would replace each silo\'s released mean and spread by an average over '
            'silos; use a method that keeps statistics at home, such as "fedtl" or "fedbn"'
        )
    if experiment.model.dtype != "float32":
        yield f"[privacy] and model.dtype = {experiment.model.dtype!r}: gradients are clipped in float32 alone"
    if experiment.engine.stack > 1:
        yield f"[privacy] and engine.stack = {experiment.engine.stack}: silos that share a step have no clip of their own"
    for silo in experiment.silo:
        try:
            its = privacy_of(experiment, silo)
        except ConfigError as error:
            yield str(error)
            continue
        for key, what in ALIKE.items():
            if (value := getattr(its, key)) != getattr(experiment.privacy, key):
                yield f"silo.{silo}.privacy.{key} = {value!r}: {what} in all silos; set privacy.{key}"


def doubtful(experiment: Experiment) -> Iterator[str]:
    """What is allowed, and weakens the claim or what it is worth."""
    privacy, compare = experiment.privacy, experiment.compare
    if privacy is None:
        yield "there is no [privacy]: what is shared can tell about any row"
        return
    if privacy.tuning == "undeclared":
        yield (
            'privacy.tuning = "undeclared": settings that were chosen by looking at private rows cost epsilon that '
            'nobody counts; say "public" where only public rows were looked at'
        )
    if privacy.noise == "reproducible":
        yield (
            f'privacy.noise = "reproducible": seed = {experiment.seed} draws the noise and the samples of every run alike; '
            "whoever knows it subtracts the noise, and nothing is private"
        )
    if privacy.epsilon > LARGE:
        yield f"privacy.epsilon = {privacy.epsilon:g}: beyond {LARGE:g} an attacker may be nearly sure"
    if privacy.delta != "auto" and privacy.delta > 1e-5:
        yield f"privacy.delta = {privacy.delta:g}: chance of a failure without bound; 1/(10 n) or 1e-5 is usual"
    if privacy.statistics == "local-after":
        yield 'privacy.statistics = "local-after": exact statistics stay at the silo; never send such a model on'
    yield (
        "the figures on test rows in result.json and report.html, and on validation rows in silos/<name>/validation.json, "
        "are exact and outside of the claim; keep them where the rows are"
    )
    private = [method_of(MethodSettings(name=name)) for name in compare.methods if name in METHODS]
    if (runs := len(compare.seeds) * sum(bool(its.shared) and not its.pool for its in private)) > 1:
        yield f"compare trains {runs} times in private on the same rows: released together, their epsilons add"
    if experiment.model.weights not in ("", "pretrained") and not marks.marked(
        Path(experiment.model.weights)
    ):
        yield UNCOVERED
    data = experiment.data
    declared = {
        "data.classes": data.classes,
        "data.bounds": data.bounds,
        "data.scale": data.scale not in SCALES,
    }
    if keys := [key for key, given in declared.items() if given]:
        yield DECLARED.format(", ".join(keys))
    if not (experiment.model.weights or experiment.model.pretrain_on):
        yield "the backbone starts from nothing: under noise a public start is worth most of the accuracy"
    if privacy.unit == "record" and experiment.data.unit_column:
        yield (
            f'privacy.unit = "record", and rows belong to a {experiment.data.unit_column}: one with k rows is protected '
            f"with k times the epsilon; set privacy.unit = {experiment.data.unit_column!r}"
        )
    elif privacy.unit == "record" and experiment.data.source in ("table", "npz", "images"):
        yield (
            "the unit is a record: a person with several records is protected less, epsilon grows with their number; "
            "name the column that says whose row it is in privacy.unit"
        )
    elif privacy.unit != "record":
        yield not_covered(privacy.unit)
