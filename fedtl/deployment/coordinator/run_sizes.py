"""How large a reply may be by the study whose Flower run it belongs to. Imports no torch, because the SuperLink stays small."""

import json
from contextlib import suppress
from pathlib import Path

from fedtl.deployment.coordinator.reply_size import reply_size, reply_size_by
from fedtl.errors import ConfigError


class RunSizes:
    """
    The limits of runs, in bytes. A run of a study never becomes that of another, and its first shared tensors stay as they are, so a
    limit that was found is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[int, int] = {}

    def most(self, run: int) -> int:
        """
        Return the most bytes that a reply in this run may have: what the shared tensors of its study need. Where no study notes the run
        yet, or a file of the study is damaged: what the largest plan in ``bundles/`` needs.
        """
        if run not in self._known:
            for study in (self._folder / "studies").glob("*"):
                if run in _runs_of(study):
                    with suppress(ConfigError):
                        self._known[run] = reply_size_by(study / "start.safetensors").total
        return self._known.get(run) or reply_size(self._folder).total


def _runs_of(study: Path) -> set[int]:
    """Return the Flower runs that a study notes; a crash can leave an incomplete line, which is left out."""
    found = set()
    with suppress(OSError):
        for line in (study / "runs.jsonl").read_text(errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                found.add(int(json.loads(line)["run"]))
    return found
