"""A row for every tensor of a study's model, for ``fedtl show`` and the pages of a site."""

from collections.abc import Sequence
from dataclasses import replace

from fedtl.experiment.provenance import provenance_after_rounds
from fedtl.experiment.study import Study
from fedtl.methods.codecs import layout_bytes
from fedtl.methods.sets import MODEL, SUMMARY, set_of
from fedtl.models.state import State, size_in_bytes
from fedtl.results.plan import StatePart, TensorRow


def tensor_table(study: Study) -> tuple[TensorRow, ...]:
    """Return a row for every tensor; with ``[privacy]`` including its provenance after the last round."""
    private, partition = study.experiment.privacy, study.trainer.partition
    encoding = study.trainer.encoding
    labels = provenance_after_rounds(study.trainer, study.first, private)
    return tuple(
        TensorRow(
            name=name,
            role=str(partition.roles[name]),
            shape=tuple(tensor.shape),
            bytes=size_in_bytes({name: tensor}),
            leaves=partition.leaves(name),
            sent=layout_bytes(encoding.layout({name: tensor})) if partition.leaves(name) else 0,
            label=str(labels[name]) if private else None,
        )
        for name, tensor in _all_tensors(study).items()
    )


def parts_of(tensors: Sequence[TensorRow]) -> tuple[StatePart, ...]:
    """
    Return what the method keeps or sends in addition to the model, with the bytes of each part. A set of which some tensors
    stay, such as counts and what is frozen, has a part that leaves and one that stays.
    """
    parts: dict[tuple[str, bool], StatePart] = {}
    for tensor in tensors:
        if (name := set_of(tensor.name)) != MODEL:
            key = name, tensor.leaves
            so_far = parts.get(key, StatePart(name, 0, 0, tensor.leaves))
            parts[key] = replace(so_far, tensors=so_far.tensors + 1, bytes=so_far.bytes + tensor.bytes)
    return tuple(parts.values())


def model_rows(tensors: Sequence[TensorRow]) -> tuple[TensorRow, ...]:
    """Return the rows of the model's own tensors."""
    return tuple(tensor for tensor in tensors if set_of(tensor.name) == MODEL)


def _all_tensors(study: Study) -> State:
    """Return the model's tensors in the model's order, then each slot's in the same order, then the summaries."""
    width = study.schema.width
    initial = study.trainer.initial(width)
    model = {name: number for number, name in enumerate(study.trainer.net(width).state_dict())}
    sets = [MODEL, *(slot.name for slot in study.method.slots), SUMMARY]

    def place(name: str) -> tuple[int, int]:
        return sets.index(set_of(name)), model.get(name.rpartition("/")[2], len(model))

    return {name: initial[name] for name in sorted(initial, key=place)}
