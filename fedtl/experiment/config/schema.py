"""The settings of an experiment and their defaults."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field

from fedtl._util.settings import Settings
from fedtl.data.settings import DataSettings, printable
from fedtl.simulation.settings import EngineSettings


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
    dtype: Literal["float32", "tf32", "bf16"] = "float32"


class TrainSettings(Settings):
    """
    ``[train]``: training inside a silo. ``schedule``: of the learning rate over the rounds. ``roles``: what a round trains, of
    what the method trains; []: all of it. What is left out keeps its initial values, and does not leave a silo.
    """

    optimizer: str = "sgd"
    lr: float = Field(0.05, gt=0, allow_inf_nan=False)
    schedule: Literal["constant", "cosine"] = "constant"
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0, allow_inf_nan=False)
    body_lr: float = Field(1.0, ge=0, allow_inf_nan=False)
    batch_size: int = Field(32, ge=2)
    epochs: int = Field(1, ge=1)
    roles: list[Literal["body", "norm", "head"]] = []


class MethodSettings(Settings):
    """``[method]``. Further keys are the method's own settings: the parameters of its function."""

    model_config = ConfigDict(extra="allow")

    name: str = "fedtl"
    terms: list[dict[str, Any]] = []
    server: dict[str, Any] = {"name": "mean"}
    personalise: dict[str, Any] = {}

    @property
    def own(self) -> dict[str, Any]:
        """The method's own settings."""
        return dict(self.model_extra or {})


class PrivacySettings(Settings):
    """
    ``[privacy]``: differential privacy in every silo; without the table there is none. ``epsilon`` covers everything that is
    released over all rounds. ``delta`` "auto" is min(1e-5, 1/(10 n)). ``unit``: what is protected, a record or, with the
    name of a column such as "patient", all rows with the same value there; n and ``train.batch_size`` then count units.
    ``clip``: the clipping norm of one unit's gradient over all trainable tensors. ``sample_rate``: the probability that a
    step takes a unit. ``steps``: steps in one round, all phases together. Where these two are not set, ``train.batch_size``
    and ``train.epochs`` give them. ``metrics``: metrics that are released every round with noise; no others leave a silo.
    """

    epsilon: float = Field(gt=0, le=100, allow_inf_nan=False)
    delta: Literal["auto"] | Annotated[float, Field(gt=0, lt=1)] = "auto"
    clip: float = Field(1.0, gt=0, allow_inf_nan=False)
    sample_rate: float | None = Field(None, gt=0, le=1)
    steps: int | None = Field(None, ge=1)
    unit: str = "record"
    statistics: Literal["auto", "dp", "public", "local-after"] = "auto"
    stages: list[Annotated[int, Field(ge=1)]] = []
    noise: Literal["os", "reproducible"] = "os"
    metrics: list[Literal["accuracy"]] = Field([], max_length=1)
    tuning: Literal["public", "undeclared"] = "undeclared"


Line = Annotated[str, Field(max_length=400), AfterValidator(printable)]


class RequestSettings(Settings):
    """
    ``[request]``: who asks institutions to take part (``by``), and for what ``purpose``; one line of plain text each. Both
    are at the top of the page that an institution signs; fedtl cannot check them.
    """

    by: Line = ""
    purpose: Line = ""


class SiloSettings(Settings):
    """``[silo.<name>]``: the settings of ``[privacy]`` that one silo overrides."""

    privacy: dict[str, Any] = {}


class AuditSettings(Settings):
    """
    ``[audit]``: what a run stores for a later audit. ``canaries``: synthetic records in each private silo; they do not change
    the model. ``transcript``: the number of rounds whose messages are stored, spread evenly over the run.
    ``show_rows``: silos whose owner permits that an audit prints pictures of their training rows (with --pictures).
    """

    canaries: int = Field(0, ge=0, le=1_000_000)
    transcript: int = Field(0, ge=0)
    show_rows: list[str] = []


class CompareSettings(Settings):
    """``[compare]``. ``metric`` decides which method is best; "auto" is accuracy, or R^2 in regression."""

    methods: list[str] = Field(["local", "pooled", "fedavg", "fedbn", "fedper", "fedtl"], min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0, 1, 2], min_length=1)
    metric: str = "auto"


class Experiment(Settings):
    """All settings of an experiment."""

    seed: int = Field(0, ge=0)
    rounds: int = Field(20, ge=1)
    silos_per_round: Literal["all"] | Annotated[int, Field(ge=1)] = "all"
    minimum_silos: int = Field(1, ge=1)
    request: RequestSettings = RequestSettings()
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
    method: MethodSettings = MethodSettings()
    privacy: PrivacySettings | None = None
    silo: dict[str, SiloSettings] = {}
    audit: AuditSettings = AuditSettings()
    engine: EngineSettings = EngineSettings()
    compare: CompareSettings = CompareSettings()

    @property
    def metric(self) -> str:
        """The main metric."""
        if self.compare.metric != "auto":
            return self.compare.metric
        return "r2" if self.data.task == "regression" else "accuracy"
