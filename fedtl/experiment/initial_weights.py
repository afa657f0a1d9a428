"""First weights from a file, and whether private training may start from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedtl.errors import ConfigError, ModelError
from fedtl.experiment.config.privacy_checks import UNCOVERED
from fedtl.methods.sets import model_part
from fedtl.models import weights
from fedtl.models.dp_norm import restore_names, restore_state
from fedtl.models.net import ModelSpec
from fedtl.models.roles import roles
from fedtl.models.state import State
from fedtl.privacy import taint as labels
from fedtl.privacy import taint_metadata as marks
from fedtl.privacy.taint import WHY, Label


@dataclass(frozen=True)
class FirstWeights:
    """
    First weights from a ``file``, by the tensor names of the ordinary net. ``labels``: the provenance of each tensor; None
    where the file does not record it.
    """

    file: str
    state: State
    labels: Mapping[str, Label] | None
    notes: list[str] = field(default_factory=list)

    def privacy_notes(self) -> list[str]:
        """
        Return notes about this start for the reader of a private run's epsilon. Raises ConfigError for a tensor that was
        trained on private rows without noise.
        """
        if self.labels is None:
            return [UNCOVERED]
        if private := labels.local_only(self.labels):
            raise ConfigError(
                f"model.weights: {self.file}: {private[0]} is {Label.LOCAL}: {WHY}; "
                "start from public weights or from weights of private training, or train without [privacy]"
            )
        if set(self.labels.values()) - {Label.PUBLIC}:
            return [
                f"model.weights: {self.file} comes from private training; if it used the same rows, "
                "its epsilon adds to the epsilon reported here"
            ]
        return []


def read_first_weights(path: Path, plan: ModelSpec, width: int) -> FirstWeights:
    """Read first weights. Raises ModelError where the file does not fit the model, or the provenance labels do not fit the file."""
    net, file = plan.net(width), model_part(weights.read_weights(path))
    try:
        provenance = marks.read(path)
    except ModelError as error:
        raise ModelError(f"model.weights: {error}") from error
    if any(name.endswith(".affine.weight") for name in file):  # a private run's
        file, provenance = (
            restore_state(net, file),
            None if provenance is None else restore_names(net, provenance),
        )
    state, notes = weights.fit_weights(file, net.state_dict(), roles(net), plan, path.name)
    if provenance is None:
        return FirstWeights(path.name, state, None, notes)
    by_name = {name: provenance.get(name) or provenance.get(plan.library_name(name)) for name in state}
    # num_batches_tracked may have been recreated here; it then depends on no data.
    return FirstWeights(
        path.name, state, {name: label or Label.PUBLIC for name, label in by_name.items()}, notes
    )
