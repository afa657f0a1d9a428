"""First weights from a file, and whether private training may start from them."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedtl.errors import ConfigError, ModelError
from fedtl.experiment.config.privacy_checks import UNCOVERED
from fedtl.methods.sets import model_part
from fedtl.models import weights
from fedtl.models.dp_norm import restore_names, restore_state
from fedtl.models.net import ModelSpec
from fedtl.models.roles import roles
from fedtl.models.state import State
from fedtl.privacy import taint, taint_metadata
from fedtl.privacy.taint import WHY_REFUSED, Label


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

    def for_labels(self, path: Path, labels: Collection[tuple[str, ...]]) -> "FirstWeights":
        """
        Return these weights without a head that was trained for other labels than those of this run's heads, which ``labels``
        lists, and a note on it, or on a head of which no file says what its outputs mean. ``path``: of the weights.
        """
        head = [name for name in self.state if name.startswith("head.")]
        if not head:
            return self
        known, heads = _labels_beside(path), sorted(set(labels))
        if known is not None and heads == [known] and known:
            return self
        ours = " and for ".join(_listed(one) for one in heads)
        if known is None and len(heads) == 1:
            note = f"the head is used, too: fedtl cannot know whether its outputs mean {_listed(heads[0])}, in this order"
            return replace(self, notes=[*self.notes, f"{self.file}: {note}"])
        if known == () and heads == [()]:
            note = "the head is used, too: check that it predicts the same value in the same unit"
            return replace(self, notes=[*self.notes, f"{self.file}: {note}"])
        theirs = "other labels" if known is None else _listed(known)
        note = f"{self.file}: its head is for {theirs}, not for {ours}: not used"
        return replace(self.without(head), notes=[*self.notes, note])

    def without(self, names: Collection[str]) -> "FirstWeights":
        """Return these weights without some tensors, which then start from the seed."""
        state = {name: tensor for name, tensor in self.state.items() if name not in names}
        if self.labels is None:
            return replace(self, state=state)
        labels = {name: label for name, label in self.labels.items() if name not in names}
        return replace(self, state=state, labels=labels)

    def privacy_notes(self) -> list[str]:
        """
        Return notes about this start for the reader of a private run's epsilon. Raises ConfigError for a tensor that was
        trained on private rows without noise.
        """
        if self.labels is None:
            return [UNCOVERED]
        if private := taint.local_only_names(self.labels):
            raise ConfigError(
                f"model.weights: {self.file}: {private[0]} is {Label.LOCAL}: {WHY_REFUSED}; "
                "start from public weights or from weights of private training, or train without [privacy]"
            )
        if set(self.labels.values()) - {Label.PUBLIC}:
            return [
                f"model.weights: {self.file} comes from private training; if it used the same rows, "
                "its epsilon adds to the epsilon reported here"
            ]
        return []


def read_first_weights(path: Path, plan: ModelSpec, width: int) -> FirstWeights:
    """
    Read initial weights. Raises ModelError where the file does not fit the model, or its provenance labels the file.
    """
    net, file = plan.net(width), model_part(weights.read_weights(path))
    try:
        provenance = taint_metadata.read_labels(path)
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
    names, _ = weights.file_names(file, net.state_dict(), plan)
    by_name = {name: provenance.get(names.get(name, name)) for name in state}
    # num_batches_tracked may have been recreated here; it then depends on no data.
    return FirstWeights(
        path.name, state, {name: label or Label.PUBLIC for name, label in by_name.items()}, notes
    )


def _listed(labels: tuple[str, ...]) -> str:
    """Return the labels in words, at most six of them."""
    more = f" and {len(labels) - 6} more" if len(labels) > 6 else ""
    return ", ".join(labels[:6]) + more if labels else "values"


def _labels_beside(path: Path) -> tuple[str, ...] | None:
    """
    Return the labels of the head in a file of fedtl's, () for values: in model.json of an export, or in inputs.json of a silo
    of a run. None where neither is next to the file.
    """
    folder = path.parent
    for file in (folder / "model.json", folder / "inputs.json", *sorted(folder.glob("silos/*/inputs.json"))):
        try:
            return tuple(str(label) for label in json.loads(file.read_text())["classes"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None
