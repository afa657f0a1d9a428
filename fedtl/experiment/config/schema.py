"""The experiment's settings and their defaults: what its TOML file may hold, and nothing about how it is read."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field

from fedtl._util.settings import Settings
from fedtl.data.settings import DataSettings, printable
from fedtl.simulation.settings import EngineSettings


class ModelSettings(Settings):
    """``[model]``. ``weights`` is a local file (absolute once loaded) or "pretrained"."""

    name: str = "convnet"
    weights: str = ""
    pretrain_on: list[str] = []
    pretrain_epochs: int = Field(10, ge=1)
    freeze: int = Field(0, ge=0)
    dtype: Literal["float32", "tf32", "bf16"] = "float32"


class TrainSettings(Settings):
    """``[train]``: what happens inside a silo. ``schedule``: whether the learning rate falls from round to round."""

    optimizer: str = "sgd"
    lr: float = Field(0.05, gt=0, allow_inf_nan=False)
    schedule: Literal["constant", "cosine"] = "constant"
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0, allow_inf_nan=False)
    body_lr: float = Field(1.0, ge=0, allow_inf_nan=False)
    batch_size: int = Field(32, ge=2)
    epochs: int = Field(1, ge=1)


class MethodSettings(Settings):
    """``[method]``. The method's own settings stand beside these keys; its function's parameters are the list."""

    model_config = ConfigDict(extra="allow")

    name: str = "fedtl"
    terms: list[dict[str, Any]] = []
    server: dict[str, Any] = {"name": "mean"}
    personalise: dict[str, Any] = {}

    @property
    def own(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class PrivacySettings(Settings):
    """
    ``[privacy]``: record-level differential privacy in every silo; without the table there is none. ``epsilon`` is
    for all that is charged over all rounds; ``delta`` "auto": min(1e-5, 1/(10 n)). ``unit``: who is protected, a record
    or, with a column's name such as "patient", all rows that agree there. ``clip``: of one unit's gradient, in the norm
    over all tensors that move. ``sample_rate``: of each unit in a step, and ``steps`` of a round, all phases together; not
    set: as ``train.batch_size`` and ``train.epochs`` give them. With units, n and ``train.batch_size`` count units.
    ``metrics``: what may leave a silo each round, with noise and charged; nothing else does.
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
    ``[request]``: who asks institutions to take part, ``by``, and the ``purpose``, each in one line of plain text. Both
    stand at the top of the page that an institution signs; fedtl cannot check them.
    """

    by: Line = ""
    purpose: Line = ""


class SiloSettings(Settings):
    """``[silo.<name>]``: what one silo does otherwise than ``[privacy]`` says."""

    privacy: dict[str, Any] = {}


class AuditSettings(Settings):
    """
    ``[audit]``: what a run keeps for those who attack it afterwards. ``canaries``: records of nobody in each private
    silo, which cost the model nothing. ``transcript``: so many rounds' messages, spread over the run; 0: none.
    ``show_rows``: silos whose owner agrees that an audit may print pictures of their training rows (with --pictures).
    """

    canaries: int = Field(0, ge=0, le=1_000_000)
    transcript: int = Field(0, ge=0)
    show_rows: list[str] = []


class CompareSettings(Settings):
    """``[compare]``. ``metric`` decides who is best; "auto": accuracy, or R^2 in regression."""

    methods: list[str] = Field(["local", "pooled", "fedavg", "fedbn", "fedper", "fedtl"], min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0, 1, 2], min_length=1)
    metric: str = "auto"


class Experiment(Settings):
    """Every key of the file with its default; frozen."""

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
        """What "better" means here."""
        if self.compare.metric != "auto":
            return self.compare.metric
        return "r2" if self.data.task == "regression" else "accuracy"
