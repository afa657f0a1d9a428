"""What a head starts from whose classes are equally far from each other."""

from collections.abc import Callable
from dataclasses import replace

import torch

from fedtl.errors import ConfigError
from fedtl.methods.base import HEAD, Method
from fedtl.models.state import State

LENGTH = 2.0  # of a class's weights; those of torch's own start have 0.58, with which a body learns slowly under a fixed head


def simplex(head: State) -> State:
    """
    Return the tensors of a linear head, ``weight`` [K, D, ...] and perhaps ``bias`` [K], as a simplex: the weights of any two of K
    classes have the cosine -1/(K - 1), the smallest that all pairs can have at once, and no bias. A body under such a head,
    which is the same at every silo, gives each class the same direction at all of them (Papyan, Han and Donoho, 2020: heads trained
    to the end are simplices; Li et al., 2023: fixed ones between silos). For orthonormal u_1, ..., u_K,

        w_k = LENGTH sqrt(K / (K - 1)) (u_k - (u_1 + ... + u_K) / K)

    The u are those of the initial weights (QR decomposition), so that they follow from the seed. One output, or more outputs than
    features: the initial weights, each scaled to LENGTH. Raises ConfigError where these are zeros, from which nothing would be learned,
    and for a head that is not one linear layer.
    """
    if sum(tensor.dim() > 1 for tensor in head.values()) != 1 or len(head) > 2:
        raise ConfigError(
            f'method.head = "simplex" needs a head of one linear layer; this one has {", ".join(head)}; use "trained"'
        )
    started = dict(head)
    for name, tensor in head.items():
        if name.endswith("bias"):
            started[name] = torch.zeros_like(tensor)
            continue
        rows = tensor.flatten(1)
        classes, features = rows.shape
        if 1 < classes <= features:
            basis = torch.linalg.qr(rows.T.double())[0].T
            spread = basis - basis.mean(0)
        else:
            spread = rows.double()
        lengths = spread.norm(dim=1, keepdim=True)
        if not bool(lengths.all()):
            raise ConfigError(
                'method.head = "simplex": the model starts an output of its head with zeros; use "trained"'
            )
        started[name] = (LENGTH * spread / lengths).to(tensor.dtype).reshape(tensor.shape)
    return started


def fixed_head(method: Method, start: Callable[[State], State] | None) -> Method:
    """Return the method with heads that its rounds do not train. ``start``: what they start from; None: the initial weights."""
    phases = tuple(replace(phase, train=phase.train - HEAD) for phase in method.phases)
    return replace(method, phases=phases, head_start=start, auto_head=False)
