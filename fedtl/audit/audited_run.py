"""What an audit of a run works on: the run folder, the study rebuilt from it, recorded messages, and the adversary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from fedtl.audit.canaries.log import CanaryPhase, read_canary_phases
from fedtl.experiment.run_folder import TRANSCRIPT, RunFolder
from fedtl.experiment.study import Study
from fedtl.federation.recorder import RecordedRound, read_transcript
from fedtl.models.state import State
from fedtl.results.audit import Adversary
from fedtl.results.privacy import SiloPrivacy


@dataclass(frozen=True)
class AuditedRun:
    """
    A run and what is needed to audit it. ``study`` is built from the run's own experiment, with its privacy guarantees.
    ``start``: the pretrained initial weights, if the experiment pretrains.
    """

    folder: RunFolder
    study: Study
    adversary: Adversary
    start: State | None = None

    @cached_property
    def messages(self) -> Sequence[RecordedRound]:
        """The recorded rounds; empty if the run recorded none."""
        return read_transcript(self.folder.path / TRANSCRIPT)

    @cached_property
    def claims(self) -> Mapping[str, SiloPrivacy]:
        """The claims of the silos of a private run; empty if the run was not private."""
        privacy = self.folder.result().privacy
        return (privacy.silos if privacy else None) or {}

    @property
    def attackable(self) -> bool:
        """Whether the run recorded anything that the adversary saw."""
        return bool(self.messages) or self.adversary is Adversary.MODEL

    def canaries(self, name: str) -> list[CanaryPhase]:
        """What a silo recorded about its canaries; empty if it had none."""
        return read_canary_phases(self.folder.silo(name) / "canaries")
