"""The first weights of a model, from a file, and whether private training may start from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedtl.errors import ConfigError, ModelError
from fedtl.experiment.config.privacy_checks import UNCOVERED
from fedtl.models import weights
from fedtl.models.dp_norm import restore_names, restore_state
from fedtl.models.net import ModelSpec
from fedtl.models.roles import roles
from fedtl.models.state import State
from fedtl.privacy import taint as labels
from fedtl.privacy import taint_metadata as marks
from fedtl.privacy.taint import WHY, Label


@dataclass(frozen=True)
class Start:
    """
    First weights by the names of the ordinary net, as far as the ``file`` has them. ``labels``: where each comes
    from; None where the file does not say.
    """

    file: str
    state: State
    labels: Mapping[str, Label] | None
    notes: list[str] = field(default_factory=list)

    def vouched(self) -> list[str]:
        """
        What a reader of a private run's epsilon should know about this start. Raises ConfigError, naming a
        tensor, where nothing could bound what rows do through it.
        """
        if self.labels is None:
            return [UNCOVERED]
        if odd := labels.local_only(self.labels):
            raise ConfigError(
                f"model.weights: {self.file}: {odd[0]} is {Label.LOCAL}: {WHY}; "
                "start from what is public or was released with noise, or train without [privacy]"
            )
        if set(self.labels.values()) - {Label.PUBLIC}:
            return [
                f"model.weights: {self.file} was made by private training: "
                "what that spent on the same rows is not in the epsilon here, and adds to it"
            ]
        return []


def from_file(path: Path, plan: ModelSpec, width: int) -> Start:
    """Raises ModelError for a file that does not fit the model, or whose marks do not fit the file."""
    net, file = plan.net(width), weights.read_weights(path)
    try:
        said = marks.read(path)
    except ModelError as error:
        raise ModelError(f"model.weights: {error}") from error
    if any(name.endswith(".affine.weight") for name in file):  # a private run's
        file, said = restore_state(net, file), None if said is None else restore_names(net, said)
    state, notes = weights.fit_weights(file, net.state_dict(), roles(net), plan, path.name)
    if said is None:
        return Start(path.name, state, None, notes)
    found = {name: said.get(name) or said.get(plan.library_name(name)) for name in state}
    # A count that was put back with a norm is nobody's.
    return Start(path.name, state, {name: label or Label.PUBLIC for name, label in found.items()}, notes)
