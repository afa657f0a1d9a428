"""The settings of the model and of training inside a silo: ``[model]`` and ``[train]``."""

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, PrivateAttr

from fedtl._util.settings import Settings

if TYPE_CHECKING:
    from fedtl.models.custom import Build


class AdapterSettings(Settings):
    """
    ``[model.adapters]``: the body is frozen, and small modules beside its layers are trained and leave in its place
    (``models.adapters``). ``rank``: of the change of a layer's weight, or the width of the bottleneck. ``alpha``: the change is
    scaled by alpha / rank; without it by 1. ``where``: "linear", "conv", "attention" (the Linear layers of attention modules),
    or patterns of paths such as "blocks.*.attn.qkv"; []: every Linear and Conv2d layer.
    """

    kind: Literal["ffa-lora", "lora", "bottleneck"] = "ffa-lora"
    rank: int = Field(8, ge=1, le=1024)
    alpha: float | None = Field(None, gt=0, allow_inf_nan=False)
    where: list[str] = []


class ModelSettings(Settings):
    """
    ``[model]``. ``settings``: the parameters of a model of fedtl's own or of an installed package. ``weights``: a local file
    (absolute once loaded) or "pretrained".
    """

    name: str = "convnet"
    settings: dict[str, Any] = {}
    weights: str = ""
    pretrain_on: list[str] = []
    pretrain_epochs: int = Field(10, ge=1)
    freeze: int = Field(0, ge=0)
    adapters: AdapterSettings | None = None
    dtype: Literal["float32", "tf32", "bf16"] = "float32"
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
    learning rate rises from round to round over so many first rounds (Goyal et al., 2017). ``clip``: the most that the norm of a
    step's gradient over all trained tensors may be; a longer one is shortened to it (Pascanu et al., 2013). ``balanced``: an
    epoch draws its rows so that each class of the silo comes equally often. ``augment``: random changes of training images, one
    after the other, each with the settings of its name (``training.augment``).
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
    roles: list[Literal["body", "norm", "head", "adapter"]] = []
