"""
Provenance labels in a file of tensors, so that training from the file can check how each tensor depends on private rows.

They are JSON in the metadata of a safetensors file. They are not signed: they prevent mistakes, not forgery.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from fedtl.errors import ModelError
from fedtl.privacy.taint import Label

KEY = "fedtl.labels"


def label_metadata(labels: Mapping[str, Label]) -> dict[str, str]:
    """Return the metadata that is written with tensors of these names."""
    return {KEY: json.dumps({name: str(label) for name, label in sorted(labels.items())})}


def has_labels(path: Path) -> bool:
    """Whether a file has provenance labels, valid or not."""
    return _metadata(path)[0] is not None


def read_labels(path: Path) -> dict[str, Label] | None:
    """
    Return the label of every tensor in the file; None if it has none, because another program wrote it. Raises ModelError
    unless there is exactly one label for each tensor.
    """
    text, names = _metadata(path)
    if text is None:
        return None
    try:
        content = json.loads(text)
        labels = {name: Label(label) for name, label in content.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise _invalid(path, "are not labels that fedtl writes") from error
    if differing := sorted(labels.keys() ^ names):
        raise _invalid(path, f"do not match its tensors: {differing[0][:80]!r}")
    return labels


def _metadata(path: Path) -> tuple[str | None, frozenset[str]]:
    """Return the labels as they are written, and the tensors' names; (None, ...) for another kind of file."""
    if path.suffix != ".safetensors":
        return None, frozenset()
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get(KEY), frozenset(file.keys())
    except (OSError, SafetensorError):  # reported where its tensors are read
        return None, frozenset()


def _invalid(path: Path, what: str) -> ModelError:
    return ModelError(f"{path}: its provenance labels {what}; export the file again with fedtl export")
