"""Settings that ``data.task`` contradicts, and what a task other than classification and regression cannot be used with."""

from collections.abc import Iterator
from contextlib import suppress

from fedtl.data.settings import DataSettings
from fedtl.errors import ConfigError
from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.config.schema import Experiment
from fedtl.tasks.classification import Classification
from fedtl.tasks.multilabel import MultiLabel
from fedtl.tasks.ordinal import Ordinal
from fedtl.tasks.segmentation import Segmentation
from fedtl.tasks.survival import Survival, TimeToEvent

PICTURES = ("npz", "images", "memory")  # sources of images with masks
SUITABLE = "another method, such as fedavg, fedbn, fedper or fedtl"
OTHERS = "works with classification and regression only; remove it"


def label_mistakes(data: DataSettings) -> Iterator[str]:
    """Yield a line for each key on labels that the task lacks or does not have."""
    task, named = data.predicted, f'data.task = "{data.task}"'
    if data.positive_above is not None and not task.exclusive:
        yield f"data.positive_above makes two classes, but {named}; remove one of them"
    if data.classes and not task.has_classes and not isinstance(task, MultiLabel | Segmentation):
        yield f"data.classes lists labels, but {named}; remove one of them"
    if isinstance(task, Ordinal) and len(data.classes) < 2:
        yield f'{named} needs its levels from low to high: data.classes = ["low", "middle", "high"]'
    if isinstance(task, MultiLabel) and not data.classes:
        yield f'{named} needs the columns of its labels: data.classes = ["edema", "effusion"]'
    if isinstance(task, MultiLabel) and data.label != DataSettings().label:
        yield f"data.label = {data.label!r} is not read, because {named} has its labels in the columns of data.classes; remove it"
    if isinstance(task, TimeToEvent) and not data.event and data.source == "table":
        yield f'{named} needs data.event, the column that is 1 for an event and 0 for a censored row, as data.label = "{data.label}" is the time'
    if data.event and not isinstance(task, TimeToEvent):
        yield f'data.event is a setting of the tasks "survival" and "cox", but {named}; remove it'
    ends = data.horizons
    if isinstance(task, Survival) and (not ends or ends != sorted(set(ends))):
        yield f"{named} needs data.horizons, times in ascending order in the unit of data.label, such as [12, 24, 60]; found {ends}"
    if ends and not isinstance(task, Survival):
        yield f'data.horizons is a setting of the task "survival", but {named}; remove it'
    yield from _of_masks(data)
    if (data.class_weights != "none" or data.focal) and not isinstance(task, Classification):
        key = "class_weights" if data.class_weights != "none" else "focal"
        yield f"data.{key} changes the loss of a classification, but {named}; remove it"
    if isinstance(data.class_weights, dict) and data.classes:
        for label in sorted(data.class_weights.keys() - set(data.classes)):
            yield f"data.class_weights: {label!r} is not in data.classes; remove it or correct it"


def _of_masks(data: DataSettings) -> Iterator[str]:
    task, named = data.predicted, f'data.task = "{data.task}"'
    if not isinstance(task, Segmentation):
        for key in ("mask_values", "mask_void", "dice_loss"):
            if getattr(data, key) != type(data).model_fields[key].default:
                yield f'data.{key} is a setting of the task "segmentation", but {named}; remove it'
        return
    if len(data.classes) < 2:
        yield f'{named} needs the classes of its pixels, the background first: data.classes = ["background", "lesion"]'
    if data.mask_values and len(set(data.mask_values)) != len(data.classes):
        yield f"data.mask_values = {data.mask_values}: list a different number for each of the {len(data.classes)} classes of data.classes"
    if data.mask_void in (data.mask_values or range(len(data.classes))):
        yield f"data.mask_void = {data.mask_void} is also the number of a class; set data.mask_values, or another number"
    if data.source not in PICTURES:
        yield f"{named} needs images: data.source {', '.join(PICTURES)}, not {data.source!r}"
    for key in ("sequence", "manifest", "slices", "split_column"):
        if getattr(data, key):
            yield f"data.{key} is not read with {named}; remove it"
    if data.source == "images" and data.unit_column:
        yield f"data.unit_column is not read from image files with {named}; remove it, or save the rows as .npz"
    if data.kind == "volumes":
        yield f'data.kind = "volumes", but {named} has masks of images; save the slices of volumes as images'


def task_contradictions(experiment: Experiment) -> Iterator[str]:
    """Yield a line for each method and setting that cannot be used with the task."""
    data = experiment.data
    if data.class_weights != "none" and experiment.engine.stack > 1:
        yield f"data.class_weights differ from silo to silo, but engine.stack = {experiment.engine.stack}; set it to 1"
    if data.predicted.everywhere:
        return
    where = f'but data.task = "{data.task}"'
    used = {
        "data.unlabelled": data.unlabelled,
        "data.label_fraction": data.label_fraction != 1.0,
        "data.missing_labels": data.missing_labels != "refuse",
        "data.target_domain": data.target_domain,
        "data.public": data.public,
        "data.target_encoded": data.target_encoded,
        "data.min_labels": data.min_labels > 1 and not data.predicted.has_classes,
        "engine.stack": experiment.engine.stack > 1,
        'data.late_head = "ridge"': data.late_head == "ridge",
        "method.tune.generations": experiment.method.tune.generations,
        "audit.canaries": experiment.audit.canaries,
        "privacy.metrics": experiment.privacy is not None and experiment.privacy.metrics,
    }
    for key, value in used.items():
        if value:
            yield f"{key} is set, {where}, and it {OTHERS}"
    with suppress(ConfigError):  # contradictions() reports it
        method = method_of(experiment.method)
        by_pixel = data.predicted.per_pixel
        for term in method.losses if by_pixel else ():
            if term.any_task and not term.by_pixel:
                yield f"method {experiment.method.name!r}: {type(term).__name__} has one score a row, {where}; use {SUITABLE}"
        parts = [*method.losses, *method.finish, *method.summaries]
        for part in parts:
            if not part.any_task:
                yield (
                    f"method {experiment.method.name!r}: {type(part).__name__} works with classification and regression only, {where}; "
                    f"use {SUITABLE}"
                )


def unsound_task(data: DataSettings) -> Iterator[str]:
    """Yield a line for each setting of a task under which a guarantee of ``[privacy]`` would not hold."""
    if not data.predicted.per_example:
        yield (
            f'[privacy] and data.task = "{data.task}": the loss of a row depends on the other rows of its batch, so no example\'s gradient '
            'can be clipped; use data.task = "survival" with data.horizons'
        )
    if data.class_weights == "balanced":
        yield (
            '[privacy] and data.class_weights = "balanced": the weights are counts of private rows, and no charge covers them; write '
            "down weights that are public: { class = weight }"
        )
