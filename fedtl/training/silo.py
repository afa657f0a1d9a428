"""One silo: its rows, its local tensors, its secret and its privacy guarantee."""

from dataclasses import dataclass, field

from fedtl.data.dataset import SiloDataset
from fedtl.models.state import State
from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.privacy.taint import Labels


@dataclass
class Silo:
    """
    What a silo has and keeps: data, local tensors, and a secret.

    The secret is part of every draw, so that the task's seed alone does not give the batches. At an institution it comes
    from the operating system, in a simulation from the experiment's seed. With a ``guarantee`` the silo trains privately;
    ``labels``: the provenance of each tensor, which decides whether a private round may start from it.
    """

    name: str
    data: SiloDataset
    local: State
    secret: bytes
    guarantee: PrivacyGuarantee | None = None
    labels: Labels = field(default_factory=dict)
