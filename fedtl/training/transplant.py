"""Trainings at a silo that begin with the first stages of another model: what is general in a body, and what is specific?"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from fedtl.messages import Task
from fedtl.methods.sets import model_part
from fedtl.models.net import ModelSpec, stage_tensors, stages
from fedtl.models.state import State
from fedtl.results.transferability import Begin
from fedtl.training.at_home import alone_trainer, trained_alone
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer

DONORS = {
    Begin.A: "others",
    Begin.A_TUNED: "others",
    Begin.B: "own",
    Begin.B_TUNED: "own",
    Begin.HELD: "first",
}
FROZEN = frozenset({Begin.A, Begin.B, Begin.HELD})


@dataclass(frozen=True)
class Donors:
    """
    Whole models of one silo's shape: ``first``, with which a run starts; ``new``, random weights of another seed; ``others``, of
    the other silos; and ``own``, the silo's own, once it is trained.
    """

    first: State
    new: State
    others: State
    own: State

    def state(self, begin: Begin, stages: int, spec: ModelSpec) -> State:
        """Return the weights that a training begins with."""
        if begin is Begin.OWN:
            return self.first
        if begin is Begin.NEW:
            return self.new
        donor: State = getattr(self, DONORS[begin])
        names = [f"body.{name}" for stage in stage_tensors(spec.body)[:stages] for name in stage]
        return self.new | {name: donor[name] for name in names}


def plan(stages: int, pretrained: bool) -> Iterator[tuple[Begin, int]]:
    """Yield all trainings at a silo in order; its own model comes first, because others begin with parts of it."""
    yield Begin.OWN, 0
    yield Begin.NEW, 0
    if pretrained:
        yield Begin.HELD, stages
    for count in range(1, stages + 1):
        for begin in (Begin.A, Begin.A_TUNED, Begin.B, Begin.B_TUNED):
            yield begin, count


def transplants(
    trainer: Trainer, silo: Silo, task: Task, donors: Donors, pretrained: bool
) -> Iterator[tuple[Begin, int, State]]:
    """Do all trainings at a silo in order, and yield how each began, with how many stages, and the model that came of it."""
    for begin, count in plan(len(stages(trainer.spec.body)), pretrained):
        state = transplanted(trainer, silo, task, donors, begin, count)
        if begin is Begin.OWN:
            donors = replace(donors, own=state)
        yield begin, count, state


def transplanted(
    trainer: Trainer, silo: Silo, task: Task, donors: Donors, begin: Begin, stages: int
) -> State:
    """
    Return the model after the silo has trained alone for the epochs of a run, with exact statistics. Frozen stages keep
    their weights; their normalisation statistics still follow the silo's inputs.
    """
    alone = alone_trainer(trainer)
    freeze = stages if begin in FROZEN else 0
    alone = replace(alone, training=replace(alone.training, freeze=freeze))
    state = trained_alone(alone, silo, task, donors.state(begin, stages, alone.spec))
    return alone.adapt(state, silo.data.inputs, silo.data.width)


def donors_of(trainer: Trainer, silo: Silo, shared: State, new: ModelSpec) -> Donors:
    """
    Return the models before the silo trains. ``shared``: what the other silos trained together; ``new``: the same model with
    random weights of another seed.
    """
    alone, width = alone_trainer(trainer), silo.data.width
    others = model_part(trainer.partition.join(shared, silo.local))
    fresh = replace(alone, spec=new, start={})
    return Donors(
        first=model_part(alone.initial(width)),
        new=model_part(fresh.initial(width)),
        others=trainer.adapt(others, silo.data.inputs, width),
        own={},
    )
