"""
FedDF: after averaging, the server trains the averaged model to give what the silos' models give together on public inputs.

Law: with 0 steps it is FedAvg, bit for bit.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedtl._util.randomness import torch_generator
from fedtl._util.settings import AtLeastOne, Count, Positive
from fedtl.messages import Update
from fedtl.methods.base import Memory, Method
from fedtl.methods.server import AVERAGED, ServerStep
from fedtl.methods.sets import model_part
from fedtl.methods.teacher import distillation_losses
from fedtl.models.roles import Role
from fedtl.models.state import State, add_scaled, copy_state

ROWS_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class PublicModel:
    """The net that the silos share, a copy for the server alone; inputs ``x`` [N, ...] that all may see, as the net takes them."""

    net: nn.Module
    x: Tensor
    seed: int

    def scores(self, state: State, rows: slice | Tensor = slice(None)) -> Tensor:
        """Return the outputs [B, width] of a model on these rows, in evaluation mode; they can be differentiated."""
        scores: Tensor = functional_call(self.net.eval(), state, (self.x[rows],))
        return scores.float()

    @torch.no_grad()
    def all_scores(self, state: State) -> Tensor:
        """Return the outputs [N, width] of a model on all rows, float64."""
        starts = range(0, len(self.x), ROWS_AT_ONCE)
        return torch.cat([self.scores(state, slice(at, at + ROWS_AT_ONCE)) for at in starts]).double()

    def on_device(self, state: State) -> State:
        """Return a state where the inputs are."""
        return {name: tensor.to(self.x.device) for name, tensor in state.items()}


@dataclass
class MeanScores:
    """The mean of the scores of several models on public inputs; one model is in memory at a time."""

    public: PublicModel
    models: int = 0
    total: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def hear(self, shared: State, updates: Iterable[Update]) -> Iterator[Update]:
        """Yield the updates, and add the scores of the model that each makes of ``shared``."""
        for update in updates:
            state = self.public.on_device(model_part(add_scaled(shared, update.delta)))
            scores = self.public.all_scores(state)
            if bool(
                scores.isfinite().all()
            ):  # such as a negative variance gives none; one silo must not end the study
                self.total, self.models = scores + self.total.to(scores.device), self.models + 1
            yield update

    def mean(self) -> Tensor:
        """Return the mean [N, width]."""
        return (self.total / self.models).float()


@dataclass(frozen=True)
class DistilOnServer:
    """
    The server's step. The teacher is the mean of the scores of the silos' models, each with the same weight; the student is the weighted
    mean of the models, trained for ``steps`` by Adam with a rate that falls from ``lr`` to 0 as a cosine. Statistics of norms stay
    at their mean: student and teachers are used in evaluation mode. ``public`` None: until an experiment gives it.
    """

    steps: int = 100
    lr: float = 1e-3
    batch_size: int = 128
    temperature: float = 1.0
    public: PublicModel | None = field(default=None, compare=False, repr=False)

    def on(self, public: PublicModel) -> "DistilOnServer":
        """Return the step with the net and the inputs that it needs."""
        return replace(self, public=public)

    def __call__(
        self, shared: State, updates: Iterable[Update], roles: Mapping[str, Role], memory: Memory
    ) -> tuple[State, Memory]:
        """Return the next shared tensors; the memory counts the rounds, so that each draws batches of its own."""
        if self.public is None:
            raise ValueError("call on(...) first: the step needs the net and public inputs")
        teacher = MeanScores(self.public)
        heard = teacher.hear(shared, updates) if self.steps else updates
        averaged, _ = ServerStep()(shared, heard, roles, {})
        number = int(memory.get("round", 0)) + 1
        if teacher.models:
            moving = [name for name in model_part(averaged) if roles[name] not in AVERAGED]
            averaged |= self._student(self.public, model_part(averaged), moving, teacher.mean(), number)
        return averaged, {"round": number}

    def _student(
        self, public: PublicModel, model: State, moving: list[str], teacher: Tensor, number: int
    ) -> State:
        """Return the tensors that were trained, on the CPU. ``number``: of the round."""
        state = public.on_device(model)
        weights = {name: nn.Parameter(state[name].clone()) for name in sorted(moving)}
        optimizer = torch.optim.Adam(weights.values(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        draw = torch_generator("distil", public.seed, number)
        for _ in range(self.steps):
            rows = torch.randint(len(teacher), (min(self.batch_size, len(teacher)),), generator=draw)
            rows = rows.to(teacher.device)
            optimizer.zero_grad()
            scores = public.scores(state | weights, rows)
            distillation_losses(scores, teacher[rows], self.temperature).mean().backward()
            optimizer.step()
            schedule.step()
        return copy_state(dict(weights))


def feddf(
    steps: Count = 100,
    lr: Positive = 1e-3,
    batch_size: AtLeastOne = 128,
    temperature: Positive = 1.0,
) -> Method:
    """
    Lin et al., 2020 (FedDF): as FedAvg, but the server then trains the averaged model on public inputs (data.public) towards
    the mean of the silos' models' scores.
    """
    return Method(server=DistilOnServer(steps, lr, batch_size, temperature))
