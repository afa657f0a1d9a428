"""What an audit of a run works on: the run folder, the study rebuilt from it, recorded messages, and the adversary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from fedtl.audit.canaries.log import CanaryPhase, read_canary_phases
from fedtl.errors import ConfigError
from fedtl.experiment.checkpoint import load_run_state
from fedtl.experiment.run_folder import TRANSCRIPT, RunFolder
from fedtl.experiment.study import Study
from fedtl.federation.recorder import RecordedRound, read_transcript
from fedtl.messages import Task
from fedtl.models.state import State
from fedtl.results.audit import Adversary
from fedtl.results.privacy import SiloPrivacy
from fedtl.training.at_home import received_model


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
    def received_models(self) -> Mapping[str, State]:
        """
        The model of each silo as the last round left it, with exact statistics where they are the silo's own. What a silo
        fits to its rows afterwards never leaves it, and no claim covers it. Raises ConfigError where the checkpoint is gone.
        """
        study, folder = self.study, self.folder
        state = load_run_state(folder.log)
        if state is None:
            raise ConfigError(f"{folder.path} has no checkpoint of its last round; repeat the run")
        rounds, seed = study.experiment.rounds, study.experiment.seed
        task = Task(folder.path.name, rounds + 1, rounds, seed, state.server.shared)
        models = {}
        for name in study.training:
            silo = study.silo(name, study.data(name))
            silo.local = state.local[name]
            models[name] = received_model(study.trainer, silo, task)
        return models

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
