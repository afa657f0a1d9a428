"""How fast each parameter moves: the settings of training, and what follows from them for one step and for many."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedtl.messages import Task
from fedtl.methods.optimizers import rate
from fedtl.training.augment import Change


@dataclass(frozen=True)
class TrainingConfig:
    """
    The ``[train]`` settings. ``freeze``: the number of first stages of the body that do not move; the statistics of their norms
    still follow the silo's inputs. ``stage_lr``: each stage has this times the rate of the next one (Howard and Ruder, 2018:
    1 / 2.6). ``roles``: what the rounds train, of what the method trains; (): all of it. ``warmup``, ``clip`` and ``balanced``: as in
    ``[train]``. ``augment``: the changes of training images. ``depths``: by the body's parameters, how far their stage is below the
    head; ``Trainer`` sets it.
    """

    optimizer: str = "sgd"
    lr: float = 0.05
    schedule: str = "constant"
    momentum: float = 0.9
    weight_decay: float = 0.0
    body_lr: float = 1.0
    stage_lr: float = 1.0
    batch_size: int = 32
    epochs: int = 1
    warmup: int = 0
    clip: float | None = None
    balanced: bool = False
    augment: tuple[Change, ...] = ()
    freeze: int = 0
    roles: tuple[str, ...] = ()
    depths: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)

    def share_of(self, name: str) -> float:
        """Return the factor on the learning rate of a parameter, which is 1 for the head."""
        if name.startswith(("head.", "aux.")):
            return 1.0
        return self.body_lr * self.stage_lr ** self.depths.get(name, 0)

    def rate(self, task: Task) -> float:
        """Return the factor on all learning rates in this round."""
        return rate(self.schedule, task.round, task.rounds, self.warmup)

    def lr_of(self, name: str, task: Task) -> float:
        """Return the learning rate of a parameter in this round: the body may have a rate of its own."""
        return self.lr * self.rate(task) * self.share_of(name)

    def reach(self, name: str, task: Task, steps: int) -> float:
        """
        Return how far a constant gradient of 1 would move a parameter by SGD: with learning rate l and momentum m,
        l times the sum over t = 1..steps of (1 - m^t) / (1 - m). Other optimisers: as without momentum.
        """
        m = self._momentum
        return self.lr_of(name, task) * sum((1 - m**t) / (1 - m) for t in range(1, steps + 1))

    def reach_of_step(self, name: str, task: Task) -> float:
        """Return how far a constant gradient of 1 moves a parameter in one step after many: l / (1 - m) for SGD."""
        return self.lr_of(name, task) / (1 - self._momentum)

    @property
    def _momentum(self) -> float:
        return self.momentum if self.optimizer == "sgd" else 0.0
