"""
Canaries in private training: records of nobody, each in or out by a coin, in a parameter beside the model.

A canary's loss is gain * <side, e_i>: its gradient is far longer than the clip, lies in one coordinate of the parameter
``side`` and is zero in the model, as a row's is zero in ``side``. So it goes through the silo's own sampling, clip, noise
and optimiser and costs the model nothing. What became of it is written down at home; no update has a place for it.
Must not know what an auditor makes of that.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from fedtl.methods.losses import Batch

GAIN = 10.0  # clips: so long is a canary's gradient before it is clipped
RELEASED = "statistics.safetensors"


@dataclass(frozen=True)
class Canaries:
    """``count`` coordinates; ``seed`` tosses the coins. ``folder``: where each phase of each round is written down."""

    count: int
    seed: int
    folder: Path

    def members(self) -> Tensor:
        """[count] bool: which are records of this silo."""
        return torch.rand(self.count, generator=torch.Generator().manual_seed(self.seed)) < 0.5


class _NetWithCanaries(nn.Module):
    """``side`` comes first, so that its noise stands at one place of the stream whatever the model is."""

    def __init__(self, side: nn.Linear, net: nn.Module) -> None:
        super().__init__()
        self.side, self.net = side, net


class CanaryLayer:
    """
    The model that one phase trains, with the canaries' parameter beside it, or, without canaries, the net alone.

    ``records`` of the silo come first, and the canaries that are in after them: ``count`` in all.
    """

    def __init__(
        self, net: nn.Module, optimizer: Optimizer, records: int, clip: float, its: Canaries | None
    ) -> None:
        self._its, self._clip = its, clip
        self.model, self.count = net, records
        if its is None:
            return
        device = next(net.parameters()).device
        self._member = its.members()
        self._inside = self._member.nonzero().flatten()
        self._side = nn.Linear(its.count, 1, bias=False, device=device)
        nn.init.zeros_(self._side.weight)
        optimizer.add_param_group({"params": [self._side.weight]})
        self.model, self.count = _NetWithCanaries(self._side, net), records + len(self._inside)
        self._sums: list[Tensor] = []
        self._sampled: list[Tensor] = []

    def trial(self, strangers: int) -> Tensor:
        """Rows to try out: all of so many strangers, and a few canaries."""
        return torch.arange(strangers + (0 if self._its is None else min(4, len(self._inside))))

    def losses(
        self, records: int, batch: Callable[[Tensor], Batch], losses: Callable[[Batch], Tensor]
    ) -> Callable[[nn.Module, Tensor], Tensor]:
        """The losses [B] of rows, of which those from ``records`` on are canaries."""
        if self._its is None:
            return lambda _, rows: losses(batch(rows))
        return lambda _, rows: self._losses(rows, rows < records, records, batch, losses)

    def _losses(
        self,
        rows: Tensor,
        own: Tensor,
        records: int,
        batch: Callable[[Tensor], Batch],
        losses: Callable[[Batch], Tensor],
    ) -> Tensor:
        weight = self._side.weight
        seen = batch(rows.where(own, 0))  # a canary needs an input, and has nobody's
        own = own.to(weight.device)
        x = seen.x.where(own.view(-1, *[1] * (seen.x.dim() - 1)), 0)
        values = losses(replace(seen, x=x, y=seen.y.where(own, 0)))
        which = self._inside[(rows - records).clamp(min=0)].to(weight.device)
        ones = torch.zeros(len(rows), weight.shape[1], device=weight.device)
        ones[torch.arange(len(rows)), which] = GAIN * self._clip * (~own).float()
        return torch.where(own, values, self._side(ones)[:, 0].to(values.dtype))

    def beside(
        self, rows: Tensor, records: int, expected: float, more: Callable[[], None]
    ) -> Callable[[], None]:
        """What runs between the noise and the optimiser: ``more``, after a look at the noisy sums."""
        if self._its is None:
            return more

        def look() -> None:
            gradient = self._side.weight.grad
            assert gradient is not None
            self._sums.append(gradient.detach().flatten().cpu() * (expected / self._clip))
            sampled = torch.zeros(self._side.weight.shape[1], dtype=torch.bool)
            sampled[self._inside[rows[rows >= records] - records]] = True
            self._sampled.append(sampled)
            more()

        return look

    def keep(self, round: int, phase: int) -> None:
        """
        Write down, at home: ``sums`` [steps, count], noisy and clipped, in clips; ``sampled`` [steps, count], which
        canaries a step held; ``member`` [count]; ``after`` [count], where the optimiser brought the parameter.
        """
        if self._its is None:
            return
        content = {
            "sums": torch.stack(self._sums),
            "sampled": torch.stack(self._sampled),
            "member": self._member,
            "after": self._side.weight.detach().flatten().cpu().contiguous(),
        }
        _write(self._its.folder, f"round-{round:06d}-phase-{phase}.safetensors", content)


class CanaryStatistics:
    """
    The same canaries in a release of statistics: coordinates after a layer's own, in which no record has anything and
    each canary that is in has far more than the clip. They are clipped, summed and noised with the layer's.
    """

    def __init__(self, its: Canaries | None) -> None:
        self._its = its
        self._member = torch.zeros(0, dtype=torch.bool) if its is None else its.members()
        self._sums: list[Tensor] = []
        self._deviations: list[float] = []

    def parts(self, parts: Iterable[Tensor], limit: float) -> Iterator[Tensor]:
        """Records' vectors [B, C] as [B, C + count], and the canaries' after them."""
        count = len(self._member)
        for part in parts:
            yield torch.cat([part, part.new_zeros(len(part), count)], 1)
            like = part
        if count:
            inside = (GAIN * limit * torch.eye(count))[self._member].to(like)
            yield torch.cat([inside.new_zeros(len(inside), like.shape[1]), inside], 1)

    def own(self, noisy: Tensor, limit: float, deviation: float) -> Tensor:
        """The layer's part of a noisy sum, after a look at the rest."""
        width = len(noisy) - len(self._member)
        self._sums.append(noisy[width:].detach().cpu() / limit)
        self._deviations.append(deviation / limit)
        return noisy[:width]

    def keep(self) -> None:
        """
        Write down, at home, of each sub-release: ``sums`` [releases, count], noisy, and ``deviations`` [releases] of the
        noise that was meant, both in clips; ``member`` [count].
        """
        if self._its is not None:
            deviations = torch.tensor(self._deviations, dtype=torch.float64)
            content = {"sums": torch.stack(self._sums), "deviations": deviations, "member": self._member}
            _write(self._its.folder, RELEASED, content)


def _write(folder: Path, name: str, content: dict[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f".{name}.{os.getpid()}"
    save_file(content, new)
    os.replace(new, folder / name)
