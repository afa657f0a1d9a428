"""Which normalisation layers release their statistics with noise (DP-AdaBN)."""

from collections.abc import Iterable

from torch import nn

from fedtl.errors import ConfigError
from fedtl.experiment.config.schema import PrivacySettings
from fedtl.models.net import stages
from fedtl.models.scaled import INPUT_SCALE
from fedtl.privacy.dp_adabn import adaptable_layers
from fedtl.training.trainer import Trainer


def released_layers(body: nn.Module, settings: PrivacySettings) -> list[str]:
    """Return the layer that scales the inputs, if there is one, and with ``statistics = "dp"`` those of the body."""
    inputs = [path for path in adaptable_layers(body) if path == INPUT_SCALE]
    return inputs + (layers_of_stages(body, settings.stages) if settings.statistics == "dp" else [])


def layers_of_stages(body: nn.Module, wanted: Iterable[int]) -> list[str]:
    """Return the layers in these stages of the body, counted from 1; without numbers, in all. Raises ConfigError."""
    numbers, paths = list(wanted), [path for path in adaptable_layers(body) if path != INPUT_SCALE]
    if not numbers:
        return paths
    parts = stages(body)
    if max(numbers) > len(parts):
        raise ConfigError(
            f"privacy.stages lists {max(numbers)}, but the body has {len(parts)} stages; list only 1 to {len(parts)}"
        )
    names = [name for number in numbers for name in parts[number - 1]]
    return [path for path in paths if any(name.startswith(f"{path.rpartition('.')[0]}.") for name in names)]


def released_statistics(trainer: Trainer, settings: PrivacySettings) -> list[str]:
    """Return the names of the tensors that these layers release."""
    body = trainer.net(1).body
    layers = adaptable_layers(body)
    return [
        f"body.{path}.{name}"
        for path in released_layers(body, settings)
        for name, _ in layers[path].named_buffers()
    ]
