"""The settings of an experiment and their defaults."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, PrivateAttr, model_validator

from fedtl._util.settings import Settings, infinite_as_text
from fedtl.data.settings import DataSettings, printable
from fedtl.experiment.config.home_schema import ChooseSettings, TuneSettings
from fedtl.experiment.config.model_schema import ModelSettings, TrainSettings
from fedtl.simulation.settings import EngineSettings

if TYPE_CHECKING:
    from fedtl.methods.base import Method

CUSTOM = "custom"  # first part of the name of a method or model that a Python program passes as a value
CUSTOM_NAME = re.compile(rf"{CUSTOM}(:[A-Za-z0-9_][A-Za-z0-9._+-]{{0,63}})?")


def is_custom(name: str) -> bool:
    """Whether a name stands for a value of a Python program: "custom", or "custom:" and a name."""
    return CUSTOM_NAME.fullmatch(name) is not None


class MethodSettings(Settings):
    """
    ``[method]``. Further keys are the method's own settings: the parameters of its function. ``cut``: how many first stages of
    the body silos share; later ones and the head stay at each silo. Without it: all that the method shares. ``trim``: the
    share of a batch's labelled rows, those with the largest losses, that do not count: against wrong labels.
    """

    model_config = ConfigDict(extra="allow")

    name: str = "fedtl"
    cut: int | None = Field(None, ge=1)
    trim: float = Field(0.0, ge=0, lt=1, allow_inf_nan=False)
    terms: list[dict[str, Any]] = []
    server: dict[str, Any] = {"name": "mean"}
    tune: TuneSettings = TuneSettings()
    choose: ChooseSettings = ChooseSettings()
    _value: "Method | None" = PrivateAttr(None)

    @model_validator(mode="before")
    @classmethod
    def _infinite_as_text(cls, given: Any) -> Any:
        """Return the settings with "inf" for an infinite number among the method's own: TOML has such a number, JSON has none."""
        own = given.keys() - cls.model_fields.keys() if isinstance(given, dict) else ()
        return {**given, **{key: infinite_as_text(given[key]) for key in own}} if own else given

    @property
    def own(self) -> dict[str, Any]:
        """The method's own settings."""
        return dict(self.model_extra or {})

    @property
    def value(self) -> "Method | None":
        """The method, where a Python program passed it. Files do not hold it."""
        return self._value

    @property
    def is_absent(self) -> bool:
        """Whether the method is a value that is not here, so that nothing can be trained."""
        return is_custom(self.name) and self.value is None

    def with_value(self, name: str, value: "Method") -> Self:
        """Return these settings with a method of a Python program in place of the named one and of its own settings."""
        others = {key: getattr(self, key) for key in type(self).model_fields if key != "name"}
        changed = type(self)(name=name, **others)
        changed._value = value
        return changed


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
    are at the top of the page that an institution signs; fedtl cannot check them. ``verdict``: each institution whose policy allows
    it is asked after the last round whether joining helped, and answers in one word. ``transferability``: with the update of the last
    round each sends what the first stages of the received model are worth to it (``fedtl transferability``), where its policy allows that.
    """

    by: Line = ""
    purpose: Line = ""
    verdict: bool = False
    transferability: bool = False


Form = Literal["float32", "bf16", "int8", "top-k", "sign"]


class WireSettings(Settings):
    """
    ``[wire]``: how a silo sends the weights of its update; the task is always sent in full. "bf16": 2 bytes a value; "int8": 1
    byte; "sign": 1 bit; "top-k": the ``fraction`` of each tensor's values that are largest in magnitude. What is left out is
    added to the silo's next update (error feedback).
    """

    dtype: Form = "float32"
    fraction: float = Field(0.01, gt=0, le=1)


class UpdateSettings(Settings):
    """
    ``[updates]``: how much one update may count. ``weights``: "rows": by the number of rows that the silo states, at most
    ``max_weight``; "equal": every update counts the same. An update whose Euclidean norm over all tensors is above ``max_norm`` does
    not count. "none": no limit; a bundle for institutions always has both limits.
    """

    weights: Literal["rows", "equal"] = "rows"
    max_weight: Literal["none"] | Annotated[float, Field(gt=0, le=1e12)] = "none"
    max_norm: Literal["none"] | Annotated[float, Field(gt=0, allow_inf_nan=False)] = "none"


class SiloModelSettings(Settings):
    """``[silo.<name>.model]``: the model of one silo where it is not that of ``[model]``; it starts from random weights."""

    name: str
    settings: dict[str, Any] = {}


class SiloSettings(Settings):
    """
    ``[silo.<name>]``: the settings of ``[privacy]`` that one silo overrides, and its ``model`` where a method shares no tensor of
    it.
    """

    privacy: dict[str, Any] = {}
    model: SiloModelSettings | None = None


class AuditSettings(Settings):
    """
    ``[audit]``: what a run stores for a later audit. ``canaries``: synthetic records in each private silo; they do not change
    the model. ``transcript``: the number of rounds whose messages are stored, spread evenly over the run.
    ``show_rows``: silos whose owner permits that an audit prints pictures of their training rows (with --pictures).
    """

    canaries: int = Field(0, ge=0, le=1_000_000)
    transcript: int = Field(0, ge=0)
    show_rows: list[str] = []


class TrialSettings(Settings):
    """
    ``[compare.tune]``: lists of values that every method tries on validation rows, by the path of their setting:
    ``train.lr = [0.01, 0.1]``. Further keys are names of methods, each with a table of lists for that method alone:
    ``ditto.method.mu = [0.1, 1.0]``. ``trials``: how many combinations each method tries; 0: all, and then every method
    must have equally many.
    """

    model_config = ConfigDict(extra="allow")

    trials: int = Field(0, ge=0)
    train: dict[str, Any] = {}
    method: dict[str, Any] = {}
    _infinite_as_text = model_validator(mode="before")(infinite_as_text)

    @property
    def own(self) -> dict[str, Any]:
        """The tables of single methods."""
        return dict(self.model_extra or {})


ENSEMBLE = "local ensemble"  # an entry of compare.methods that is not a method: two local models, averaged


class CompareSettings(Settings):
    """
    ``[compare]``. ``methods``: also "local ensemble", two local models a silo whose outputs are averaged. ``metric``
    decides which method is best; "auto" is accuracy, or R^2 in regression. ``folds``: with 5, each seed does 5 runs, and every
    row is a test row in one of them; 1: one run a seed, with ``data.test``. ``margin``: two methods are as good as each other
    where their difference is shown to be smaller; in accuracy, AUC and R^2 as such, in RMSE in standard deviations of the
    silo's labels. 0.01 is the region of practical equivalence of Benavoli et al. (2017). ``set``: by method,
    settings of its column alone, which are not tried: ``mrmtl.method.mu = 1.0``. ``wire``: each method that sends weights has
    a further column for each of these forms of ``wire.dtype``, and always for "float32". ``leave_one_out``: one method also trains without
    each silo in turn, so that ``comparison.json`` says who helps whom.
    """

    methods: list[str] = Field(["local", "pooled", "fedavg", "fedbn", "fedper", "fedtl"], min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0, 1, 2], min_length=1)
    metric: str = "auto"
    folds: int = Field(1, ge=1, le=100)
    margin: float = Field(0.01, ge=0, allow_inf_nan=False)
    tune: TrialSettings = TrialSettings()
    set: dict[str, dict[str, dict[str, Any]]] = {}
    wire: list[Form] = []
    leave_one_out: bool = False
    _values: "dict[str, Method]" = PrivateAttr({})

    def with_values(self, values: "Mapping[str, Method]") -> Self:
        """Return these settings with the methods that a Python program passed, by their names in ``methods``."""
        changed = self.model_copy()
        changed._values = dict(values)
        return changed

    def with_value_of(self, method: MethodSettings) -> MethodSettings:
        """Return the settings of a column with the method that a Python program passed for it, if it passed one."""
        value = self._values.get(method.name)
        return method if value is None else method.with_value(method.name, value)


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
    wire: WireSettings = WireSettings()
    updates: UpdateSettings = UpdateSettings()
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
        return self.data.predicted.main

    @property
    def split_seed(self) -> int:
        """The seed of the draw of training, validation and test rows."""
        return self.seed if self.data.split_seed is None else self.data.split_seed
