"""The settings of the model and of training inside a silo: ``[model]`` and ``[train]``."""

from math import inf, isfinite
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, PrivateAttr

from fedtl._util.settings import Settings

if TYPE_CHECKING:
    from fedtl.models.custom import Build


class AdapterSettings(Settings):
    """
    ``[model.adapters]``: the body is frozen, and small modules added to its layers are trained and leave in its place
    (``models.adapters``). ``rank``: of the change of a layer's weight, or the width of the bottleneck. ``alpha``: the change is
    scaled by alpha / rank; without it by 1. ``where``: "linear", "conv", "attention" (the Linear layers of attention modules),
    or patterns of paths such as "blocks.*.attn.qkv"; []: every Linear and Conv2d layer.
    """

    kind: Literal["ffa-lora", "lora", "bottleneck"] = "ffa-lora"
    rank: int = Field(8, ge=1, le=1024)
    alpha: float | None = Field(None, gt=0, allow_inf_nan=False)
    where: list[str] = []


def by_channel(values: list[list[float]]) -> list[list[float]]:
    """Return means and deviations if there is one of each for each channel."""
    if len(values) != 2 or len(values[0]) != len(values[1]) or not values[0]:
        raise ValueError("must be [[means], [deviations]], two lists of the same length")
    if not all(map(isfinite, values[0])) or not all(0 < one < inf for one in values[1]):
        raise ValueError("must have finite means, and deviations above 0")
    return values


class ModelSettings(Settings):
    """
    ``[model]``. ``settings``: the parameters of a model of fedtl's own or of an installed package. ``weights``: a local file
    (absolute once loaded), "package:NAME" (that of an installed package, ``models.packaged``) or "pretrained". ``pixels``: the scale that the body expects of pixels: "auto", that of the library's
    configuration with its "pretrained" weights, and otherwise -1..1; "library", that of this configuration also with other weights;
    or [[means], [deviations]] by channel, of pixels in 0..1. ``offline``: nothing is downloaded. ``checkpointing``: activations are
    computed again in the backward pass.
    """

    name: str = "convnet"
    settings: dict[str, Any] = {}
    weights: str = ""
    pretrain_on: list[str] = []
    pretrain_epochs: int = Field(10, ge=1)
    freeze: int = Field(0, ge=0)
    adapters: AdapterSettings | None = None
    dtype: Literal["float32", "tf32", "bf16"] = "float32"
    pixels: Literal["auto", "library"] | Annotated[list[list[float]], AfterValidator(by_channel)] = "auto"
    offline: bool = False
    checkpointing: bool = False
    _value: "Build | None" = PrivateAttr(None)

    @property
    def value(self) -> "Build | None":
        """The function that builds the model, where a Python program passed it. Files do not hold it."""
        return self._value

    def with_value(self, name: str, value: "Build") -> Self:
        """Return these settings with a model of a Python program in place of the named one and of its own settings."""
        changed = self.model_copy(update={"name": name, "settings": {}})
        changed._value = value
        return changed


class TrainSettings(Settings):
    """
    ``[train]``: training inside a silo. ``schedule``: of the learning rate over the rounds. ``stage_lr``: each stage of the body
    has this times the rate of the next one, and the last stage this times the head's. ``roles``: what a round trains, of
    what the method trains; []: all of it. What is left out keeps its initial values, and does not leave a silo. ``warmup``: the
    learning rate rises from round to round over this number of first rounds (Goyal et al., 2017). ``clip``: the most that the norm of a
    step's gradient over all trained tensors may be; a longer one is shortened to it (Pascanu et al., 2013). ``balanced``: an
    epoch draws its rows so that each class of the silo comes equally often. ``augment``: random changes of training images, one
    after the other, each with the settings of its name (``training.augment``). ``patience``: training stops after this number of rounds
    without a lower mean loss on validation rows, and the models are those of the best round; 0: all rounds, and the last one.
    """

    optimizer: str = "sgd"
    lr: float = Field(0.05, gt=0, allow_inf_nan=False)
    schedule: Literal["constant", "cosine"] = "constant"
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0, allow_inf_nan=False)
    body_lr: float = Field(1.0, ge=0, allow_inf_nan=False)
    stage_lr: float = Field(1.0, ge=0, le=1)
    batch_size: int = Field(32, ge=2)
    epochs: int = Field(1, ge=1)
    warmup: int = Field(0, ge=0)
    clip: float | None = Field(None, gt=0, allow_inf_nan=False)
    balanced: bool = False
    augment: list[dict[str, Any]] = []
    patience: int = Field(0, ge=0)
    roles: list[Literal["body", "norm", "head", "adapter"]] = []
