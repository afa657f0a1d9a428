"""A method that shares the first stages of the body only: a cut between what silos share and what each keeps."""

from dataclasses import replace

from fedtl.methods.base import Method
from fedtl.models.roles import Role

BELOW = frozenset({Role.BODY, Role.NORM, Role.STATS, Role.ADAPTER})  # roles of the body's tensors


def with_cut(method: Method, stages: int) -> Method:
    """
    Return the method that shares, of what it shares, the first ``stages`` of the body (``models.net.stages``) only. Later stages,
    the head and modules of loss terms, which take their outputs, stay at the silo (Yosinski et al., 2014: early layers are
    general, late ones specific).

    Raises ValueError for a method that shares no body, and for one that sends something besides the model: means over
    silos of what different upper stages make have no meaning.
    """
    if method.pool or Role.BODY not in method.shared:
        raise ValueError("it shares no body, so there is nothing to cut")
    crossing = [slot.name for slot in method.slots if slot.crosses]
    if further := [*crossing, *(summary.name for summary in method.summaries)]:
        raise ValueError(f"it sends {further[0]!r} in addition to the model, which needs a whole shared body")
    return replace(method, shared=method.shared & BELOW, cut=stages)
