"""The result of one run: ``result.json``, and the lines of ``history.jsonl``."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedtl._util.records import FLAT
from fedtl.results.metrics import Measured, WorstSilo
from fedtl.results.privacy import PrivacyReport


@dataclass(frozen=True)
class HistoryLine:
    """
    One round: the metrics of each silo that replied, why others were left out, and how many bytes crossed. ``seconds``: of
    the round; ``bytes_full``: what the silos would have sent without compression; 0 where it was not recorded. ``weights``: of
    each update as its silo stated it; ``norms``: Euclidean, of each update over all its tensors, in 6 digits. ``validation_loss``:
    the mean over all silos after the round, where ``train.patience`` asks for it.
    """

    round: int
    seconds: float
    silos: Mapping[str, Mapping[str, float]]
    left_out: Mapping[str, str]
    bytes_up: int
    bytes_down: int
    bytes_full: int = 0
    weights: Mapping[str, float] = field(default_factory=dict)
    norms: Mapping[str, float] = field(default_factory=dict)
    validation_loss: float | None = None


@dataclass(frozen=True)
class MetricsLine:
    """
    One silo in one round of one run, as ``fedtl watch --metrics`` writes it for other tools: what its validation rows gave (``figures``, by
    metric), ``weight`` and Euclidean ``norm`` of its update, the ``seconds`` of the round for all silos, and why it was ``left_out``. A key
    is missing where nothing was recorded.
    """

    run: str
    round: int
    silo: str
    seconds: float
    figures: Mapping[str, float] = field(metadata=FLAT)
    weight: float | None = None
    norm: float | None = None
    left_out: str | None = None


@dataclass(frozen=True)
class Mix:
    """
    The models whose probabilities (in regression: values) a silo averages, by what they are, with their weights. They were
    chosen among ``mixes`` by the loss on ``validation_rows``.
    """

    weights: Mapping[str, float]
    validation_rows: int
    mixes: int


@dataclass(frozen=True)
class Interpolated:
    """
    The model between two others, the ``ends``. ``curve``: the mean loss on validation rows at the shares 0, ..., 1 of the
    second. ``shares``: the chosen ones, of the "whole" model or of each stage and the "head".
    """

    ends: tuple[str, ...]
    curve: tuple[float, ...]
    shares: Mapping[str, float]


@dataclass(frozen=True)
class SiloResult:
    """
    One silo: how many rows it has, and what its own model scores on its test rows. ``mix``: the models that this is; None: one
    alone. ``received``: the model as the last round left it, before the silo tuned or mixed anything. ``target``: on the
    test rows of the second domain, ``target_adabn``: there, after AdaBN. ``refitted``: with the exact statistics of the silo's training
    inputs in place of shared ones. ``statistics_distance``: of the statistics that training left from these exact ones,
    in standard deviations. ``unlabelled``: how many further training rows have a label that is not used. ``doubtful_labels``: the estimated share of wrong training labels (``methods.label_doubt``). ``interpolated``: the curve between two models, where
    one of the candidates lies there.
    """

    train: int
    val: int
    test: int
    measured: Measured = field(metadata=FLAT)
    mix: Mix | None = None
    received: Measured | None = None
    target: Measured | None = None
    target_adabn: Measured | None = None
    refitted: Measured | None = None
    statistics_distance: float | None = None
    unlabelled: int | None = None
    doubtful_labels: float | None = None
    interpolated: Interpolated | None = None


@dataclass(frozen=True)
class UsedFile:
    """
    A file other than the rows that a run began from: the ``setting`` that names it, its ``name`` without the folders of the machine, and the
    SHA-256 of its bytes.
    """

    setting: str
    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """
    ``result.json``. ``metric`` is the main one. ``mean`` is over the ``mean_silos`` silos that have a metric. ``late``: by
    silo, what each way to use the model gives a silo that joined after training. ``left_out``: by silo, the rounds in which
    it did not count, and why. ``bytes_*``: of all silos and rounds; ``bytes_full``: what the silos would have sent without
    compression; 0 where it was not recorded. ``wire``: how they sent their weights. ``workers``: processes at once.
    ``fingerprints``: by silo, of the rows that were read (``data.fingerprint``); {} under ``[privacy]``. ``files``: those of weights and
    what else the run began from.
    """

    fedtl: str
    method: str
    model: str
    task: str
    metric: str
    seed: int
    rounds: int
    silos: Mapping[str, SiloResult]
    mean: Mapping[str, float]
    mean_silos: Mapping[str, int]
    worst: WorstSilo
    late: Mapping[str, Mapping[str, Measured]] = field(default_factory=dict)
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    privacy: PrivacyReport | None = None
    notes: tuple[str, ...]
    bytes_up: int
    bytes_down: int
    seconds: float
    device: str
    workers: int
    bytes_full: int = 0
    wire: str = "float32"
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    files: tuple[UsedFile, ...] = ()
