"""A net at a silo that is trained to reproduce the outputs of another model or of a mix of models."""

from dataclasses import dataclass, replace

from torch import Tensor

from fedtl.messages import Task
from fedtl.methods.base import Method, Phase
from fedtl.methods.losses import TaskLoss
from fedtl.methods.teacher import TEACHER, FollowTeacher, taught_by
from fedtl.methods.tune import Tune
from fedtl.models.roles import EVERYTHING
from fedtl.models.state import State
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer


@dataclass(frozen=True)
class Lesson:
    """
    How a student is trained: for ``epochs`` with a rate that falls from that of [train] to 0 as a cosine, on labels and on the
    teacher's scores at ``temperature`` (Hinton et al., 2014).
    """

    epochs: int
    temperature: float = 2.0


def student(trainer: Trainer, silo: Silo, teacher: Tensor, lesson: Lesson, seed: int) -> State:
    """
    Return every tensor of a net that starts from the trainer's initial weights. ``teacher``: scores on the silo's training rows [N,
    width], in the scale of the losses (``at_home.scores_in_loss``). Statistics of norms are the exact ones in the end.
    """
    objective = (TaskLoss(), FollowTeacher(TEACHER, lesson.temperature))
    alone = replace(trainer, method=Method(shared=frozenset()), others={})
    state, rate = alone.initial(silo.data.width), Tune(epochs=lesson.epochs, lr="train").rate
    for epoch in range(lesson.epochs):
        task = Task("distil", epoch + 1, lesson.epochs, seed, {})
        lr = rate(epoch, alone.training.lr)
        state = alone.train(silo, state | taught_by(teacher), Phase(EVERYTHING, 1, objective), task, 0, lr)
    return alone.adapt(state, silo.data.inputs, silo.data.width)
