"""Settings of images and volumes that contradict each other."""

from collections.abc import Iterator
from pathlib import PurePath

from fedtl.data.settings import SCALES, WINDOW, DataSettings

ARRAYS = ("npz", "images", "memory")  # sources that can hold volumes
OF_FILES = ("pixel_bits", "slices", "manifest", "file_column")


def image_contradictions(data: DataSettings) -> Iterator[str]:
    """Yield a line for each mistake in how images and volumes are read."""
    sources = {"kind": ARRAYS, **dict.fromkeys(OF_FILES, ("images",))}
    for key, with_it in sources.items():
        if data.source not in with_it and getattr(data, key) != type(data).model_fields[key].default:
            yield f"data.{key} is a setting of source {', '.join(with_it)}, not of {data.source!r}; remove it"
    if data.source == "table" and data.pixel_range:
        yield "data.pixel_range is the range of images, and a table has none; set data.scale"
    if data.source == "images" and data.target_domain:
        yield 'data.target_domain: source "images" cannot read a second domain; remove it or use another source'
    if data.manifest:
        path = PurePath(data.manifest)
        if path.is_absolute() or ".." in path.parts:
            yield f"data.manifest = {data.manifest!r}: must be a file in data.path; write it relative to that folder"
    elif data.file_column != "path":
        yield "data.file_column is a column of data.manifest, which is not set; remove it"
    if data.sequence is not None and (data.kind != "auto" or data.pixel_range):
        yield "data.sequence is for series of measurements, data.kind and data.pixel_range are for images; remove one of them"
    if data.slices is not None and data.kind == "volumes":
        yield 'data.slices makes images of volumes, but data.kind = "volumes" keeps them whole; remove one of them'
    if data.slices is not None and data.slices.start >= data.slices.stop:
        yield f"data.slices.start = {data.slices.start:g} must be below data.slices.stop = {data.slices.stop:g}"
    if data.kind == "volumes" and data.channels == 3:
        yield 'data.kind = "volumes" has one channel, but data.channels = 3; remove data.channels'
    yield from _of_range(data)


def _of_range(data: DataSettings) -> Iterator[str]:
    if not data.pixel_range:
        return
    if data.pixel_range == WINDOW:
        if data.source != "images":
            yield 'data.pixel_range = "window" is the window of a DICOM file, of source "images"; set [low, high]'
    elif len(data.pixel_range) != 2 or not float(data.pixel_range[0]) < float(data.pixel_range[1]):
        yield f"data.pixel_range = {data.pixel_range}: write [low, high] with low below high"
    if data.scale == "dp":
        yield 'data.pixel_range and data.scale = "dp" both say how images are scaled; remove one of them'
    elif data.scale not in SCALES and data.task == "classification":
        yield "data.pixel_range and the file of data.scale both say how images are scaled; remove one of them"
