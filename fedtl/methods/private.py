"""What a method must not do under differential privacy."""

import math
from collections.abc import Iterator

from fedtl.methods.base import Method, Use
from fedtl.methods.candidate import Candidate
from fedtl.methods.losses import PerBatch


def private_problems(method: Method) -> Iterator[str]:
    """Yield, one line each, why a method cannot be trained with record-level privacy; nothing where it can."""
    for term in method.losses:
        if isinstance(term, PerBatch):
            yield f"the loss {type(term).__name__} depends on several examples together, so no example's gradient can be clipped"
        elif term.drawn_by_batch:
            yield f"what the loss {type(term).__name__} draws for a row depends on the rows in its batch, which the accounting does not cover"
        elif term.needs_target:
            yield f"the loss {type(term).__name__} samples rows of a second domain, which the accounting does not cover"
    for number, phase in enumerate(method.phases, 1):
        if phase.through is not None and phase.epochs != 0:
            yield f"phase {number} trains through a mixture of several sets of weights, and only one set can be clipped"
        if phase.public:
            yield (
                f"phase {number} trains on public inputs towards what other silos' models say of them, which no charge covers; feddf "
                "distils at the server, from what left with noise"
            )
        if phase.pick is not None:
            yield f"phase {number} picks one of several sets by its loss on the rows, and the pick would leave without noise"
    for step in method.finish:
        if isinstance(step, Use) and step.others:
            yield f"a silo keeps {len(step.others)} further models, each with private steps of its own; set one strength and no grid"
    choose = method.choose
    if choose and Candidate.INTERPOLATED in choose.candidates and Candidate.OWN in choose.interpolation.ends:
        yield 'a silo\'s own model has other norms than the shared one, so nothing lies between them; set method.choose.ends to ["shared", "tuned"]'
    for slot in method.slots:
        if slot.crosses:
            yield f"the slot {slot.name!r} leaves the silo, and only the model's own update gets noise"
    for summary in method.summaries:
        if summary.on_public:
            yield f"the summary {summary.name!r} is what the silo's model says of each public input, and leaves without noise"
        elif not 0 < summary.bound < math.inf:
            yield f"the vectors of the summary {summary.name!r} have no bound, so noise cannot hide one of them; set method.clip, for example to 1"
