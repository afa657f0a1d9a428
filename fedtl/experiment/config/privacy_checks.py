"""Settings under which the privacy guarantee would not hold, and settings that weaken it."""

from collections.abc import Iterator
from pathlib import Path

from fedtl.data.settings import SCALES, WINDOW
from fedtl.errors import ConfigError
from fedtl.experiment.config.resolve import method_of, privacy_of
from fedtl.experiment.config.schema import Experiment, MethodSettings
from fedtl.experiment.config.task_checks import unsound_task
from fedtl.experiment.config.train_checks import unsound_training
from fedtl.methods.private import private_problems
from fedtl.methods.registry import METHODS
from fedtl.models.roles import Role
from fedtl.privacy import taint_metadata
from fedtl.report.wording import not_covered

WEAK_EPSILON = 10.0  # from here on the guarantee is weak
DECLARED = "{}: if these values were taken from the private rows, the guarantee does not cover that"
UNCOVERED = (
    "model.weights: if the file was trained on these rows without noise, the guarantee does not cover that"
)
SAME_IN_ALL_SILOS = ("unit", "noise", "tuning")  # a result states one value for all silos


def unsound(experiment: Experiment) -> Iterator[str]:
    """Yield a line for each reason why the guarantee of ``[privacy]`` would not hold. Without such a line it may be trained."""
    if experiment.privacy is None:
        if overriding := [name for name, own in experiment.silo.items() if own.privacy]:
            yield f"silo.{overriding[0]} overrides [privacy], but the experiment has no [privacy]; add that table, or remove the override"
        if experiment.data.scale == "dp":
            yield 'data.scale = "dp" needs [privacy], and the experiment has none; set data.scale = "silo"'
        return
    if not experiment.method.is_absent:  # otherwise nothing can be trained
        yield from _unsound_method(experiment)
    yield from unsound_task(experiment.data)
    if experiment.model.dtype != "float32":
        yield f'[privacy] and model.dtype = {experiment.model.dtype!r}: clipping needs model.dtype = "float32"'
    if experiment.model.checkpointing:
        yield "[privacy] and model.checkpointing: gradients of single rows need the activations of one pass; remove model.checkpointing"
    yield from unsound_training(experiment.train)
    if experiment.engine.stack > 1:
        yield f"[privacy] and engine.stack = {experiment.engine.stack}: stacked silos cannot be clipped separately; set it to 1"
    for silo in experiment.silo:
        try:
            settings = privacy_of(experiment, silo)
        except ConfigError as error:
            yield str(error)
            continue
        for key in SAME_IN_ALL_SILOS:
            if (value := getattr(settings, key)) != getattr(experiment.privacy, key):
                yield f"silo.{silo}.privacy.{key} = {value!r}: must be the same in all silos; set privacy.{key} instead"


def _unsound_method(experiment: Experiment) -> Iterator[str]:
    method, data, name = method_of(experiment.method), experiment.data, experiment.method.name
    if method.pool or not method.sends:
        yield f"method {name!r} is a baseline and never private; remove [privacy]"
    yield from (f"[privacy] and method {name!r}: {problem}" for problem in private_problems(method))
    if data.scale == "dp" and Role.STATS in method.shared:
        yield (
            f'data.scale = "dp" and method {name!r}: the method shares statistics, so each silo\'s released mean and spread would '
            'be replaced by an average over silos; use a method that keeps statistics local, such as "fedtl" or "fedbn"'
        )


def _private_runs(experiment: Experiment) -> int:
    """Return how many private runs ``compare`` makes: for each method, seed, fold and form in which its weights are sent."""
    compare, form = experiment.compare, experiment.wire.dtype
    methods = [method_of(MethodSettings(name=name)) for name in compare.methods if name in METHODS]
    private = [method for method in methods if method.sends and not method.pool]
    forms = len({form, "float32", *compare.wire})
    columns = sum(forms if method.shared else 1 for method in private)
    return len(compare.seeds) * compare.folds * columns


def doubtful(experiment: Experiment) -> Iterator[str]:
    """Yield a line for each setting that is allowed but weakens the guarantee."""
    privacy = experiment.privacy
    if privacy is None:
        yield "there is no [privacy]: shared tensors can reveal information about any row"
        return
    if privacy.tuning == "undeclared":
        yield (
            'privacy.tuning = "undeclared": if settings were chosen on private rows, that used privacy budget which is not '
            'charged; set "public" if they were chosen on public rows only'
        )
    if privacy.noise == "reproducible":
        yield (
            f'privacy.noise = "reproducible": noise and samples follow from seed = {experiment.seed}; '
            "a reader who knows the seed can subtract the noise, so nothing is private"
        )
    if privacy.epsilon > WEAK_EPSILON:
        yield (
            f"privacy.epsilon = {privacy.epsilon:g}: above {WEAK_EPSILON:g} an attacker may be nearly certain whether a row was used"
        )
    if privacy.delta != "auto" and privacy.delta > 1e-5:
        yield f"privacy.delta = {privacy.delta:g} is large: the guarantee may fail with this probability; 1/(10 n) or 1e-5 is usual"
    if privacy.statistics == "local-after":
        yield 'privacy.statistics = "local-after": local models hold exact statistics of private rows; never share them'
    yield (
        "metrics on test rows (result.json, report.html) and on validation rows (silos/<name>/validation.json) are exact, and "
        "the guarantee does not cover them; do not publish them"
    )
    if (runs := _private_runs(experiment)) > 1:
        yield f"compare makes {runs} private runs on the same rows; if more than one is released, their epsilons add"
    if experiment.model.weights not in ("", "pretrained") and not taint_metadata.has_labels(
        Path(experiment.model.weights)
    ):
        yield UNCOVERED
    data = experiment.data
    declared = {
        "data.classes": data.classes,
        "data.bounds": data.bounds,
        "data.pixel_range": data.pixel_range not in ([], WINDOW),
        "data.scale": data.scale not in SCALES,
        "data.public": data.public,
    }
    if keys := [key for key, is_set in declared.items() if is_set]:
        yield DECLARED.format(", ".join(keys))
    if not (experiment.model.weights or experiment.model.pretrain_on):
        yield "the backbone starts from random weights; with noise, public weights (model.weights) usually improve accuracy most"
    if privacy.unit == "record" and data.slices is not None:
        yield (
            'privacy.unit = "record" and data.slices: a volume with k slices is protected with k times the epsilon; set '
            "privacy.unit to a column of data.manifest, such as the patient"
        )
    if privacy.unit == "record" and experiment.data.unit_column:
        yield (
            f'privacy.unit = "record", but data.unit_column = {experiment.data.unit_column!r}: a '
            f"{experiment.data.unit_column} with k rows is protected with k times the epsilon; "
            f"set privacy.unit = {experiment.data.unit_column!r}"
        )
    elif privacy.unit == "record" and experiment.data.source in ("table", "npz", "images"):
        yield (
            'privacy.unit = "record": a person with k records is protected with k times the epsilon; set privacy.unit to the '
            "column that identifies the person"
        )
    elif privacy.unit != "record":
        yield not_covered(privacy.unit)
