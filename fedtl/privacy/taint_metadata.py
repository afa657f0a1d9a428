"""
Labels that go along with a file of tensors, so that whoever starts from it knows what each owes to rows.

They stand in the metadata of a safetensors file, as JSON. Nobody signs them: they keep the honest from a mistake,
and stop no forger.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from fedtl.errors import ModelError
from fedtl.privacy.taint import Label

KEY = "fedtl.labels"


def metadata(labels: Mapping[str, Label]) -> dict[str, str]:
    """What is written beside tensors of these names."""
    return {KEY: json.dumps({name: str(label) for name, label in sorted(labels.items())})}


def marked(path: Path) -> bool:
    """Whether a file says anything of the kind, in whatever words."""
    return _said(path)[0] is not None


def read(path: Path) -> dict[str, Label] | None:
    """
    The label of every tensor in the file; None where it has no marks, as any other program's. Raises ModelError
    for marks that are not a label for each of the file's tensors.
    """
    text, names = _said(path)
    if text is None:
        return None
    try:
        content = json.loads(text)
        said = {name: Label(label) for name, label in content.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise _odd(path, "are no labels that fedtl writes") from error
    if differing := sorted(said.keys() ^ names):
        raise _odd(path, f"and its tensors differ in {differing[0][:80]!r}")
    return said


def _said(path: Path) -> tuple[str | None, frozenset[str]]:
    """The marks as they are written, and the tensors' names; (None, ...) for a file of another kind."""
    if path.suffix != ".safetensors":
        return None, frozenset()
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get(KEY), frozenset(file.keys())
    except (OSError, SafetensorError):  # whoever reads its tensors says so
        return None, frozenset()


def _odd(path: Path, what: str) -> ModelError:
    return ModelError(
        f"{path}: the marks that say where its tensors come from {what}; "
        "have whoever made the file export it again"
    )
