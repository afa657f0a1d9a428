"""
Updates that came before their turn, as files in the folder of a study, so that the coordinator holds one update in memory at a time and
not one for each site. The files are readable to their owner alone, and are removed once they are read and when the round ends.
"""

import logging
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fedtl._util.files import write_file
from fedtl.deployment.running import ROUND_BYTES
from fedtl.federation.early_updates import InMemory
from fedtl.messages import Refusal, Update
from fedtl.models.state import size_in_bytes

log = logging.getLogger(__name__)
EARLY_FOLDER = ".early"  # in a study's folder; a backup leaves it out


@dataclass(frozen=True)
class _OnDisk:
    """An update without its tensors, their names in order, and the file that has them."""

    update: Update
    names: tuple[str, ...]
    file: Path


@dataclass
class EarlyFiles:
    """
    Files below ``folder``, at most one for each site of a round. They leave ``ROUND_BYTES`` of the disk free, which a round's checkpoint
    needs: an update for which there is less room waits in memory, and the log says so once a round.
    """

    folder: Path
    _files: dict[str, _OnDisk] = field(default_factory=dict)
    _memory: InMemory = field(default_factory=InMemory)
    _told: bool = False

    def keep(self, update: Update) -> None:
        file = self.folder / f"{len(self._files)}.safetensors"
        try:
            self._check_room(size_in_bytes(update.delta))
            write_file(file, lambda new: save_file(update.delta, new), private=True, durable=False)
        except (OSError, SafetensorError, ValueError, RuntimeError) as error:
            self._memory.keep(update)
            if not self._told:
                self._told = True
                log.warning(
                    "round %d: updates that came before their turn wait in memory, because %s cannot hold them: %s",
                    *(update.round, self.folder, str(error)),
                )
        else:
            self._files[update.silo] = _OnDisk(replace(update, delta={}), tuple(update.delta), file)

    def take(self, silo: str) -> Update | Refusal:
        if silo not in self._files:
            return self._memory.take(silo)
        kept = self._files[silo]
        try:
            tensors = load_file(kept.file)
            return replace(kept.update, delta={name: tensors[name] for name in kept.names})
        except (OSError, SafetensorError, KeyError) as error:
            reason = f"{silo}: its update cannot be read any more from {kept.file}: {error}"
            return Refusal(silo, kept.update.round, reason)
        finally:
            kept.file.unlink(missing_ok=True)

    def clear(self) -> None:
        """Also remove what a process left that was killed."""
        self._files.clear()
        self._memory.clear()
        self._told = False
        shutil.rmtree(self.folder, ignore_errors=True)

    def _check_room(self, size: int) -> None:
        parent = self.folder.parent
        if (free := shutil.disk_usage(parent).free) < ROUND_BYTES + size:
            raise OSError(
                f"{free:,} bytes of disk are free; the update has {size:,}, and a round needs {ROUND_BYTES:,}"
            )
