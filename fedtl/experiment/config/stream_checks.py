"""What ``data.stream`` cannot be used with: settings under which a row depends on others, or for which all rows are needed at once."""

from collections.abc import Iterator

from fedtl.data.settings import DataSettings
from fedtl.experiment.config.schema import Experiment

KEY = "data.stream = true"
WHOLE = "all rows are needed in memory"


def stream_mistakes(data: DataSettings) -> Iterator[str]:
    """Yield a line for each setting of ``[data]`` that contradicts it."""
    if not data.stream:
        return
    if data.source != "images":
        yield f'{KEY} reads image files for each batch, but data.source = "{data.source}" has none; remove it'
    for key in ("size", "channels"):
        if getattr(data, key) == "native":
            yield f"{KEY} needs data.{key}, because otherwise all images would have to be read to find it; set data.{key}"
    if data.kind == "volumes" or data.slices is not None:
        yield f"{KEY} reads one image a file, not volumes or slices; remove data.stream"
    if data.scale not in ("silo", "none"):
        yield f"{KEY} and data.scale = {data.scale!r}: streamed images are pixels, or have data.pixel_range; remove data.scale"
    if data.predicted.per_pixel:
        yield f'{KEY} reads no masks, but data.task = "{data.task}"; remove data.stream'
    for key in ("deal", "unlabelled", "late", "public", "target_domain"):
        if getattr(data, key):
            yield f"{KEY} and data.{key}: {WHOLE}; remove one of them"
    if data.label_fraction != 1.0 or data.missing_labels == "inputs":
        key = "label_fraction" if data.label_fraction != 1.0 else "missing_labels"
        yield f"{KEY} and data.{key}: {WHOLE}; remove one of them"


def stream_contradictions(experiment: Experiment) -> Iterator[str]:
    """Yield a line for each setting outside of ``[data]`` that contradicts it."""
    if not experiment.data.stream:
        return
    if experiment.engine.stack > 1:
        yield f"{KEY} and engine.stack = {experiment.engine.stack}: {WHOLE}; set engine.stack = 1"
    if experiment.model.pretrain_on:
        yield f"{KEY} and model.pretrain_on: {WHOLE}; remove one of them"
