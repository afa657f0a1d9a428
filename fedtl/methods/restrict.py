"""A method that trains fewer roles in its rounds, such as normalisation layers and the head of a pretrained model only."""

from collections.abc import Iterable
from dataclasses import replace

from fedtl.methods.base import HEAD, Method
from fedtl.models.roles import Role

TRAINABLE = frozenset(
    {Role.BODY, Role.HEAD, Role.NORM, Role.ADAPTER}
)  # whose training ``train_only`` can exclude


def train_only(method: Method, roles: Iterable[Role]) -> Method:
    """
    Return the method with rounds that train these of the ``TRAINABLE`` roles; none of them named: the method itself.

    Body, norms and adapters that are not trained keep the initial values, which all silos have, so they do not leave either. Other
    roles are not affected: statistics follow the inputs where they did, and a loss's own modules are trained. What is
    fitted at home after the last round may still be everything. NORM and HEAD together are what Tobaben et al., 2023, train
    under differential privacy (FiLM; Perez et al., 2018).
    """
    if not (named := frozenset(roles)):
        return method
    excluded = TRAINABLE - named
    phases = tuple(replace(phase, train=phase.train - excluded) for phase in method.phases)
    return replace(method, phases=phases, shared=method.shared - (excluded - HEAD))
