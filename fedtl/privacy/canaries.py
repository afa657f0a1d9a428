"""
Canaries in private training: synthetic records, each of which is a member or not by a coin flip, in a parameter of their own.

The loss of canary i is gain * <canary weight, e_i>. Its gradient is much longer than the clip, has one coordinate of the
canary weight, and is zero in the model, as the gradient of a real record is zero in the canary weight. So canaries pass
through the silo's own sampling, clip, noise and optimizer without affecting the model. Their noisy sums
are recorded at the silo; an update has no field for them. This module must not depend on how an auditor evaluates the
records.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from fedtl._util import files
from fedtl.methods.losses import Batch

GAIN = 10.0  # the norm of a canary's gradient before clipping, in clips
STATISTICS_FILE = "statistics.safetensors"
SUMMARY_FILE = "summary-{name}-round-{round:06d}.safetensors"
SUMMARY_FILES = "summary-*.safetensors"
MAX_TRIAL_CANARIES = 4  # the most canaries in a trial step with synthetic rows


@dataclass(frozen=True)
class Canaries:
    """``count`` canaries; ``seed`` decides which are members. ``folder``: where each phase of each round is recorded."""

    count: int
    seed: int
    folder: Path

    def members(self) -> Tensor:
        """Return [count] bool: which canaries are records of this silo."""
        return torch.rand(self.count, generator=torch.Generator().manual_seed(self.seed)) < 0.5


class _NetWithCanaries(nn.Module):
    """The canary weight comes first, so that its noise has the same position in the stream for every model."""

    def __init__(self, side: nn.Linear, net: nn.Module) -> None:
        super().__init__()
        self.side, self.net = side, net


class CanaryLayer:
    """
    The model that one phase trains: the net with the canary weight, or, without canaries, the net alone.

    Units are numbered with the silo's own first and the member canaries after them, ``count`` in all.
    """

    def __init__(
        self, net: nn.Module, optimizer: Optimizer, units: int, clip: float, canaries: Canaries | None
    ) -> None:
        self._canaries, self._clip = canaries, clip
        self.model, self.count = net, units
        if canaries is None:
            return
        device = next(net.parameters()).device
        self._member = canaries.members()
        self._inside = self._member.nonzero().flatten()
        self._side = nn.Linear(canaries.count, 1, bias=False, device=device)
        nn.init.zeros_(self._side.weight)
        optimizer.add_param_group({"params": [self._side.weight]})
        self.model, self.count = _NetWithCanaries(self._side, net), units + len(self._inside)
        self._sums: list[Tensor] = []
        self._sampled: list[Tensor] = []

    def trial_rows(self, synthetic: int) -> Tensor:
        """Return the numbers of rows for a trial step: all of that many synthetic rows, and a few canaries."""
        canaries = 0 if self._canaries is None else min(MAX_TRIAL_CANARIES, len(self._inside))
        return torch.arange(synthetic + canaries)

    def losses(
        self, records: int, batch: Callable[[Tensor], Batch], losses: Callable[[Batch], Tensor]
    ) -> Callable[[nn.Module, Tensor], Tensor]:
        """Return a function from row numbers to their losses [B]; rows from number ``records`` on are canaries."""
        if self._canaries is None:
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
        real = batch(rows.where(own, 0))  # a canary needs some input, which is set to 0 below
        own = own.to(weight.device, non_blocking=True)
        x = real.x.where(own.view(-1, *[1] * (real.x.dim() - 1)), 0)
        values = losses(replace(real, x=x, y=real.y.where(own, 0)))
        which = self._inside[(rows - records).clamp(min=0)].to(weight.device, non_blocking=True)
        coordinates = torch.zeros(len(rows), weight.shape[1], device=weight.device)
        coordinates[torch.arange(len(rows), device=weight.device), which] = GAIN * self._clip * (~own).float()
        return torch.where(own, values, self._side(coordinates)[:, 0].to(values.dtype))

    def before_optimizer(
        self, rows: Tensor, records: int, expected: float, then: Callable[[], None]
    ) -> Callable[[], None]:
        """
        Return a function to run between the noise and the optimizer: it records the canaries' noisy sums, then calls
        ``then``.
        """
        if self._canaries is None:
            return then

        def record() -> None:
            gradient = self._side.weight.grad
            assert gradient is not None
            self._sums.append(gradient.detach().flatten() * (expected / self._clip))
            sampled = torch.zeros(self._side.weight.shape[1], dtype=torch.bool)
            sampled[self._inside[rows[rows >= records] - records]] = True
            self._sampled.append(sampled)
            then()

        return record

    def save(self, round: int, phase: int) -> None:
        """
        Write a file at the silo: ``sums`` [steps, count], noisy and clipped, in clips; ``sampled`` [steps, count], which
        canaries each step included; ``member`` [count]; ``after`` [count], the canary weight after the last step.
        """
        if self._canaries is None:
            return
        content = {
            "sums": torch.stack(self._sums).cpu(),
            "sampled": torch.stack(self._sampled),
            "member": self._member,
            "after": self._side.weight.detach().flatten().cpu().contiguous(),
        }
        _write(self._canaries.folder, f"round-{round:06d}-phase-{phase}.safetensors", content)


class CanarySums:
    """
    The same canaries in other releases of sums, of statistics or of a summary: coordinates after the released ones, which
    are zero for every real record, and in which each member canary is much longer than the clip. They are clipped, summed
    and noised with the released ones. ``file``: the name of what ``save`` writes.
    """

    def __init__(self, canaries: Canaries | None, file: str = STATISTICS_FILE) -> None:
        self._canaries, self._file = canaries, file
        self._member = torch.zeros(0, dtype=torch.bool) if canaries is None else canaries.members()
        self._sums: list[Tensor] = []
        self._deviations: list[float] = []

    def append_to(self, parts: Iterable[Tensor], limit: float) -> Iterator[Tensor]:
        """Yield the records' vectors [B, C] as [B, C + count], and after them the canaries'."""
        count = len(self._member)
        for part in parts:
            yield torch.cat([part, part.new_zeros(len(part), count)], 1)
            like = part
        if count:
            inside = (GAIN * limit * torch.eye(count))[self._member].to(like)
            yield torch.cat([inside.new_zeros(len(inside), like.shape[1]), inside], 1)

    def remove_from(self, noisy: Tensor, limit: float, deviation: float) -> Tensor:
        """Return the released part of a noisy sum, and record the canaries' part."""
        width = len(noisy) - len(self._member)
        self._sums.append(noisy[width:].detach().cpu() / limit)
        self._deviations.append(deviation / limit)
        return noisy[:width]

    def save(self) -> None:
        """
        Write a file at the silo, for all sub-releases: ``sums`` [releases, count], noisy, and ``deviations`` [releases], the
        intended standard deviations of the noise, both in clips; ``member`` [count].
        """
        if self._canaries is not None:
            deviations = torch.tensor(self._deviations, dtype=torch.float64)
            content = {"sums": torch.stack(self._sums), "deviations": deviations, "member": self._member}
            _write(self._canaries.folder, self._file, content)


def _write(folder: Path, name: str, content: dict[str, Tensor]) -> None:
    files.write_file(folder / name, lambda path: save_file(content, path))
