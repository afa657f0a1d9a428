"""One institution: its rows, the local part of its model, its secret, its promise. Values, without behaviour."""

from dataclasses import dataclass, field

from fedtl.data.dataset import SiloDataset
from fedtl.models.state import State
from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.privacy.taint import Labels


@dataclass
class Silo:
    """
    What an institution has and keeps: its data, the local part of its model, and a secret.

    The secret is part of every draw, so that somebody who knows the task's seed cannot draw the batches again.
    It comes from the system's randomness in an institution, and from the experiment's seed in a simulation,
    where nobody has to be protected from us. With a promise, its training is private, and ``labels`` say of each role
    of the local tensors what may go into it.
    """

    name: str
    data: SiloDataset
    local: State
    secret: bytes
    guarantee: PrivacyGuarantee | None = None
    labels: Labels = field(default_factory=dict)
