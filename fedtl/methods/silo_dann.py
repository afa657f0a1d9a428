"""Domain-adversarial training between silos, with one discriminator that crosses as the model does."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Le
from torch import Tensor

from fedtl.methods.dann import DomainAdversarial, ramp
from fedtl.methods.losses import Forward

Pace = Annotated[float, Gt(0), Le(1)]


@dataclass(frozen=True)
class SiloAdversarial(DomainAdversarial):
    """
    Ganin et al., 2016: a discriminator that crosses learns to tell rows with labels from others, and bodies to make it fail.

    As ``dann``, of every row of every silo. A silo of one kind of rows alone would move the discriminator to one answer for all,
    so its steps are short: its gradient is multiplied by ``pace``, and that of the body is not. Domain confusion (Tzeng et al.,
    2015) is this with the discriminator's answers pulled to one half in place of the reversed gradient.
    """

    pace: Pace = 0.1
    source_free = True

    def losses(self, out: Forward) -> Tensor:
        return self.pace * self._losses(out, self.weight * ramp(out.progress) / self.pace)

    def counts(self, out: Forward) -> Tensor:
        return out.batch.domain >= 0


@dataclass(frozen=True)
class ConditionalAdversarial(SiloAdversarial):
    """Long et al., 2018 (CDAN): as silo_dann, and the discriminator sees features together with predictions."""

    condition: bool = True
