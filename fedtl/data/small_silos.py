"""Silos that a rule leaves out of an experiment: those with too few rows, or with too few different labels."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from fedtl.data.labels import label_texts, without_label
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array


def has_rule(settings: DataSettings) -> bool:
    return settings.min_rows > 0 or settings.min_labels > 1


def small_silos(labels: Iterable[tuple[str, Array]], settings: DataSettings) -> Mapping[str, str]:
    """
    Return the silos that the rules leave out, and for each what it has: "12 rows". ``labels``: names of silos, and the labels [N]
    of their rows. The labels of silos in ``data.unlabelled`` do not matter.
    """
    small: dict[str, str] = {}
    for name, y in labels:
        if len(y) < settings.min_rows:
            small[name] = f"{len(y)} rows"
        elif settings.min_labels > 1 and name not in settings.unlabelled:
            different = sorted(set(label_texts(y[~without_label(y)])))
            if len(different) < settings.min_labels:
                listed = f" ({', '.join(different)})" if different else ""
                small[name] = f"{len(different)} label{'' if len(different) == 1 else 's'}{listed}"
    return small


def file_stamps(path: str) -> tuple[tuple[str, int, int], ...]:
    """Return names, times and sizes of the files of a data set, which change when its rows do."""
    root = Path(path)
    files = sorted(root.rglob("*")) if root.is_dir() else [root]
    stats = [(str(file), file.stat()) for file in files if file.is_file()]
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)
