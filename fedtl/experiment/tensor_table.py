"""A row for every tensor of a study's model, for ``fedtl show`` and the pages of a site."""

from fedtl.experiment.provenance import provenance_after_rounds
from fedtl.experiment.study import Study
from fedtl.models.state import size_in_bytes
from fedtl.results.plan import TensorRow


def tensor_table(study: Study) -> tuple[TensorRow, ...]:
    """Return a row for every tensor; with ``[privacy]`` including its provenance after the last round."""
    private, partition = study.experiment.privacy, study.trainer.partition
    labels = provenance_after_rounds(study.trainer, study.first, private)
    return tuple(
        TensorRow(
            name=name,
            role=str(partition.roles[name]),
            shape=tuple(tensor.shape),
            bytes=size_in_bytes({name: tensor}),
            leaves=partition.leaves(name),
            label=str(labels[name]) if private else None,
        )
        for name, tensor in study.trainer.net(study.schema.width).state_dict().items()
    )
