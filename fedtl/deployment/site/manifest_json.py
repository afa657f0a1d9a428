"""A manifest as the plain rows of a record line and of a rehearsal, and back."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from fedtl.federation.policy import Manifest, ManifestTensor


def manifest_to_rows(manifest: Manifest) -> list[dict[str, Any]]:
    return [{**asdict(line), "shape": list(line.shape)} for line in manifest.lines]


def manifest_from_rows(rows: Iterable[Mapping[str, Any]]) -> Manifest:
    """Return the manifest. Raises KeyError or TypeError for anything but the rows of a manifest."""
    return Manifest(tuple(ManifestTensor(**{**row, "shape": tuple(row["shape"])}) for row in rows))
