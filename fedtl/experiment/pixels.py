"""The scale of pixels that a model expects (``model.pixels``): looked up once, and then written in numbers into the run folder."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedtl.errors import ConfigError
from fedtl.experiment.config.model_schema import ModelSettings
from fedtl.experiment.config.schema import is_custom
from fedtl.experiment.config.settings_file import read_toml
from fedtl.models.libraries import pixel_scale_of
from fedtl.models.net import Shape
from fedtl.models.pixels import PixelScale, pixel_scale

SIGNED = [[0.5], [0.5]]  # pixels of -1..1
Values = list[list[float]]


def with_pixels(model: ModelSettings, shape: Shape, pixels: bool | None) -> ModelSettings:
    """
    Return the model's settings with the numbers of ``model.pixels``, or themselves where pixels are -1..1. ``pixels``: whether the
    inputs are images of 0..255; None: not known here. Raises ConfigError and ModelError.
    """
    wanted, images = model.pixels, pixels is not False and len(shape) == 3
    if wanted == "auto" and (model.weights != "pretrained" or not images or is_custom(model.name)):
        return model
    if not images:
        raise ConfigError(
            f"model.pixels = {wanted!r} scales pixels of 0..255, and the inputs are other numbers; remove it"
        )
    if isinstance(wanted, str):
        scale = None if is_custom(model.name) else pixel_scale_of(model.name, model.offline)
        if scale is None:
            raise ConfigError(
                f'model.pixels = {wanted!r}: no library has a configuration of {model.name!r}; set [[means], [deviations]], or "auto"'
            )
    else:
        scale = pixel_scale(wanted)
    scale = scale.for_channels(shape[0])
    return model.model_copy(update={"pixels": [list(scale.mean), list(scale.std)]})


def pixel_notes(before: ModelSettings, after: ModelSettings, shape: Shape) -> Iterator[str]:
    """
    Yield notes on the scale of pixels: one that was looked up, and one that a file of weights may not have been trained with.
    ``before``: the settings as they were asked for; ``after``: with numbers.
    """
    if isinstance(before.pixels, str) and after.pixels != before.pixels:
        yield f"pixels are scaled as the library's weights of {after.name} expect: (x / 255 - mean) / std with {_text(after.pixels)}"
    if after.weights in ("", "pretrained") or len(shape) != 3:
        return
    path, own = Path(after.weights), _scale(after.pixels, shape)
    recorded = recorded_pixels(path)
    if recorded is not None and _scale(recorded, shape) != own:
        yield (
            f"{path.name} was trained with pixels (x / 255 - mean) / std with {_text(recorded)}, and this run has {_text(after.pixels)}; "
            f"set model.pixels = {recorded}"
        )
    if recorded is None and after.pixels == "auto" and not is_custom(after.name):
        library = pixel_scale_of(after.name, offline=True)
        if library is not None and library.for_channels(shape[0]) != own:
            yield (
                f"pixels are scaled to -1..1; if {path.name} holds the library's own weights of {after.name}, they expect "
                f'{_text([list(library.mean), list(library.std)])}: set model.pixels = "library"'
            )


def recorded_pixels(weights: Path) -> Values | str | None:
    """Return the scale with which the weights of an export or of a run were trained; None where it is not recorded."""
    try:
        return json.loads((weights.parent / "model.json").read_text()).get("pixel_scale", SIGNED)
    except (OSError, ValueError, AttributeError):
        pass
    try:
        table = read_toml(weights.parent / "experiment.toml")
    except ConfigError:
        return None
    return table.get("model", {}).get("pixels", SIGNED)


def _scale(values: Sequence[Sequence[float]] | str, shape: Shape) -> PixelScale:
    return pixel_scale(SIGNED if isinstance(values, str) else values).for_channels(shape[0])


def _text(values: Sequence[Sequence[float]] | str) -> str:
    mean, std = SIGNED if isinstance(values, str) else values
    return f"mean {', '.join(f'{one:.4g}' for one in mean)} and std {', '.join(f'{one:.4g}' for one in std)}"
