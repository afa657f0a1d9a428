"""The sets of tensors of a silo in one round: one of them is in the net that is trained, the others are not."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from fedtl.errors import ConfigError
from fedtl.methods.base import Method
from fedtl.methods.losses import OnWeights
from fedtl.methods.sets import SHARED, START, Sets, model_part
from fedtl.models.net import Net
from fedtl.models.state import State
from fedtl.training.forward import Compute, NetModel


@dataclass
class Weights:
    """
    The sets of tensors of one round. ``sets``: the model, slots, and in a round what was received, all on the device.
    ``net`` holds the set ``held``, whose entry in ``sets`` are the net's own tensors. ``reference``: gives a net for
    passes by other sets, in evaluation mode.
    """

    net: Net
    reference: Callable[[], Net]
    compute: Compute
    sets: dict[str, State]
    summaries: State = field(default_factory=dict)
    held: str = ""

    def hold(self, name: str) -> None:
        """Put a set into the net; the set that was there becomes a copy."""
        if name == self.held:
            return
        if self.held:
            self.sets[self.held] = copied(self.sets[self.held])
        self.net.fill(self.sets[name])
        self.sets[name], self.held = self.net.state_dict(), name

    def put(self, name: str, state: State) -> None:
        """Give a set other values."""
        if name == self.held:
            self.net.fill(state)
            state = self.net.state_dict()
        self.sets[name] = state

    @property
    def in_round(self) -> bool:
        """Whether something was received, which terms on weights need."""
        return SHARED in self.sets

    def model(self, layers: tuple[str, ...] = (), weights: State | None = None) -> NetModel:
        """Return the net as it is trained, or with other ``weights`` in its place."""
        return NetModel(self.net, self.compute, self.by, layers, weights)

    def by(self, name: str) -> NetModel:
        """
        Return the model of another set: in evaluation mode, without gradient. Raises ConfigError for a set that is not a
        whole model, because the other tensors would be those of whatever model the reference net held last.
        """
        net, own = self.reference().eval(), self.sets.get(name, {})
        if missing := sorted(net.state_dict(keep_vars=True).keys() - own.keys()):
            raise ConfigError(
                f"a loss asks for the model of the set {name!r}, which has no {missing[0]}; use a set that holds a whole model"
            )
        buffers = {key for key, _ in net.named_buffers()}  # a pass could write to them
        fixed = {
            key: tensor.detach().clone() if key in buffers else tensor.detach() for key, tensor in own.items()
        }
        return NetModel(net, self.compute, self.by, (), fixed, False)


def copied(state: State) -> State:
    """Return detached copies on the state's own device."""
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def on_device(state: State, device: torch.device) -> State:
    """Return the tensors on the device; those that are there already are not copied."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in state.items()}


def start_set(method: Method, start: State | Callable[[], State] | None, device: torch.device) -> Sets:
    """Return the set START of the model of ``start``, or none where no term of the method needs it."""
    if start is None or not any(isinstance(one, OnWeights) and one.needs_start for one in method.every_term):
        return {}
    return {START: on_device(model_part(start() if callable(start) else start), device)}
