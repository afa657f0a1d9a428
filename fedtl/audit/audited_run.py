"""What an audit of a run works on: the run folder, the study rebuilt from it, recorded messages, and who attacks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from fedtl.audit.canaries.log import CanaryPhase, read_canary_phases
from fedtl.audit.claim import Claim, read_claim
from fedtl.experiment.run_folder import TRANSCRIPT, RunFolder
from fedtl.experiment.study import Study
from fedtl.federation.recorder import RecordedRound, read_transcript
from fedtl.models.state import State
from fedtl.report.audit_result import Adversary


@dataclass(frozen=True)
class AuditedRun:
    """
    ``study`` is built from the run's own experiment, with its privacy guarantees. ``start``: the pretrained initial
    weights, if the experiment pretrains.
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
    def claims(self) -> Mapping[str, Claim]:
        """The claims of the silos of a private run; empty if the run was not private."""
        privacy = self.folder.read_json("result.json").get("privacy")
        return {name: read_claim(values) for name, values in privacy["silos"].items()} if privacy else {}

    @property
    def attackable(self) -> bool:
        """Whether the adversary saw anything that was kept."""
        return bool(self.messages) or self.adversary is Adversary.MODEL

    def canaries(self, name: str) -> list[CanaryPhase]:
        """What a silo recorded about its canaries; empty if it had none."""
        return read_canary_phases(self.folder.silo(name) / "canaries")
