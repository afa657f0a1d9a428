"""The keys of the ``[data]`` table, once: an experiment and a site's ``silo.toml`` are composed of the parts below."""

import codecs
from datetime import date
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal
from zoneinfo import available_timezones

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from fedtl._util.settings import Settings

if TYPE_CHECKING:
    from fedtl.tasks.base import LearningTask

FILES, NOISE = "inputs", "noise"  # entries of data.public: "inputs:PATH" and "noise:N"
PREPARED = "prepared"  # "prepared:PATH": a safetensors file with inputs "x" as a net takes them
ELSEWHERE = f"{PREPARED}:-"  # of a plan: such a file, which the coordinator has, or a site by its silo.toml
SCALES = ("silo", "none", "dp")  # any other data.scale is the path of a file of constants


def printable(text: str) -> str:
    """Return ``text`` if it is one line of printable characters: an institution reads it on the page that it signs."""
    if not text.isprintable():
        raise ValueError("must be one line of printable characters")
    return text


def known_encoding(name: str) -> str:
    """Return ``name`` if Python has this encoding of text."""
    try:
        codecs.lookup(name)
    except LookupError as error:
        raise ValueError('must be an encoding of text, such as "utf-8", "cp1252" or "utf-16"') from error
    return name


def date_as_text(value: Any) -> Any:
    """Return a date of TOML, 2000-01-31 without quotes, as the text that it is in the resolved settings."""
    return value.isoformat() if type(value) is date else value


def iso_date(text: str) -> str:
    """Return ``text`` if it is a date such as 2000-01-31."""
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise ValueError("must be a date such as 2000-01-31") from error


def known_time_zone(name: str) -> str:
    """Return ``name`` if it is a time zone of the IANA database."""
    if name not in _time_zones():
        raise ValueError('must be a time zone such as "UTC" or "Europe/Berlin"')
    return name


@cache
def _time_zones() -> frozenset[str]:
    """Return the zones that this machine knows. Looking for them opens hundreds of files."""
    return frozenset(available_timezones())


Name = Annotated[str, AfterValidator(printable)]
DatePart = Literal["days", "weekday", "month", "hour"]
Number = Annotated[float, Field(allow_inf_nan=False)]
LabelFraction = Annotated[float, Field(gt=0, le=1)]


class SliceSettings(Settings):
    """
    ``data.slices``: of a NIfTI volume the images across ``axis``, of a DICOM file of several frames its frames. ``start`` and
    ``stop``: shares of them, such as 0.25 and 0.75. ``every``: with 3, every third.
    """

    axis: Literal["axial", "coronal", "sagittal", "frame"]
    start: float = Field(0.0, ge=0, lt=1)
    stop: float = Field(1.0, gt=0, le=1)
    every: int = Field(1, ge=1)


class RowSettings(Settings):
    """
    The keys that an experiment and a site's ``silo.toml`` have in common: where rows are and how they are prepared.

    ``classes``: every label that can occur; of the task "ordinal" from low to high, of "multilabel" the columns, of "segmentation"
    the background first. ``mask_values``: of "segmentation", what a mask holds for each of ``classes``; []: 0, 1, ... ``mask_void``: what
    it holds where the class is not known. ``scale``: "silo"
    (constants learned from the silo's training rows), "none", the path of a TOML file of constants, or, under ``[privacy]``, "dp": mean and standard deviation are released with noise, and
    ``bounds`` gives for each column, or channel by number, ``[low, high]`` or ``[low, high, fill]``; "*" stands for all
    columns that are not named. ``pixel_range``: ``[low, high]``, to which pixels and other numbers of images are clipped before
    they are mapped to -1..1; []: the range of the type of uint8 and uint16; "window": that of each DICOM file. ``pixel_bits``: with
    8, only the upper 8 of 16 bits are read. ``slices``: the images of a volume that are rows. ``manifest``: a CSV table in the folder
    ``path`` that lists image files, in ``file_column``. ``delimiter``, ``decimal`` and ``encoding``: how a CSV file is written.
    ``missing_labels`` "inputs": rows without a label, an empty cell or NaN, are inputs without labels, as those of ``label_fraction``, at most ``limit`` of them;
    "refuse": they are refused. ``sheet``: of an Excel file. ``date_format``: how dates are written, as for strptime; "": ISO 8601. ``time_zone``: of dates without
    an offset from UTC. ``drop``: columns of a table that are not read. ``val`` and ``test``: shares of the rows. ``limit``: the most
    training rows; 0: all.
    """

    source: str = "digits"
    path: str = ""
    label: str = "label"
    silo_column: str = ""
    domain_column: str = ""
    target_domain: str = ""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    decimal: Literal[".", ","] = "."
    encoding: Annotated[str, AfterValidator(known_encoding)] = "utf-8"
    sheet: str = ""
    date_format: str = ""
    time_zone: Annotated[str, AfterValidator(known_time_zone)] = "UTC"
    drop: list[Name] = []
    missing_labels: Literal["refuse", "inputs"] = "refuse"
    classes: list[Name] = []
    mask_values: list[Annotated[int, Field(ge=0, le=65535)]] = []
    mask_void: int | None = Field(None, ge=0, le=65535)
    scale: str = "silo"
    bounds: dict[str, list[Number]] = {}
    pixel_range: Literal["window"] | list[Number] = []
    pixel_bits: Literal["native", 8] = "native"
    slices: SliceSettings | None = None
    manifest: Name = ""
    file_column: Name = "path"
    val: float = Field(0.1, ge=0, lt=1)
    test: float = Field(0.2, ge=0, lt=1)
    limit: int = Field(0, ge=0)


class SequenceSettings(Settings):
    """
    ``data.sequence``: an input is a series of measurements. Arrays are [N, T] or [N, T, C], steps before channels, or with
    ``channels_first`` [N, C, T]. ``length``: longer series are cut to this number of steps, shorter ones are filled up with missing
    values; not set: all arrays have one length. A table has one row a step: ``id`` is the column that says which series a row
    belongs to, and ``time`` the one that orders its rows.
    """

    length: int | None = Field(None, ge=1, le=1_000_000)
    channels_first: bool = False
    id: Name = ""
    time: Name = ""


class InputSettings(Settings):
    """
    The keys on which all silos must agree, because the inputs and outputs of one model follow from them.

    ``kind``: what an array of more than two axes holds. "auto": images [N, H, W] or [N, H, W, C]; "volumes": [N, D, H, W].
    ``dice_loss``: of "segmentation", the share of the Dice loss in the training loss, the rest is cross-entropy.

    What becomes of the columns of a table that are not numbers (``data.columns``): ``categories``: one input of 0 or 1 for each
    value; ``ordered``: the number of the value in the list; ``dates``: ``date_parts``, days counted from ``reference_date``;
    ``hashed``: ``hash_width`` inputs, whatever the values are; ``target_encoded``: the mean label of the silo's own training rows;
    ``text``: ``text_width`` inputs, to which its words are hashed.
    """

    size: Literal["native"] | Annotated[int, Field(ge=1, le=4096)] = "native"
    channels: Literal["native", 1, 3] = "native"
    kind: Literal["auto", "volumes"] = "auto"
    task: Literal[
        "classification", "multilabel", "ordinal", "regression", "counts", "survival", "cox", "segmentation"
    ] = "classification"
    positive_above: float | None = Field(None, allow_inf_nan=False)
    dice_loss: float = Field(0.0, ge=0, le=1)
    columns: list[Name] = []
    categories: dict[Name, list[Name]] = {}
    sequence: SequenceSettings | None = None
    ordered: dict[Name, Annotated[list[Name], Field(min_length=2)]] = {}
    dates: list[Name] = []
    date_parts: Annotated[list[DatePart], Field(min_length=1)] = ["days", "weekday", "month"]
    reference_date: Annotated[str, BeforeValidator(date_as_text), AfterValidator(iso_date)] = "1970-01-01"
    hashed: list[Name] = []
    hash_width: int = Field(32, ge=2, le=4096)
    target_encoded: list[Name] = []
    text: list[Name] = []
    text_width: int = Field(512, ge=8, le=65_536)

    @field_validator("channels", mode="before")
    @classmethod
    def _exactly(cls, value: Any) -> Any:
        """Python takes 1.0 and true for 1, and so would a Literal."""
        return repr(value) if isinstance(value, bool | float) else value


class DealSettings(Settings):
    """
    ``data.deal``: the rows of one set, dealt to ``silos`` simulated silos (``data.deal``). ``by`` "dirichlet": silos differ in
    their labels; "size": in their numbers of rows; "iid": not at all; "classes": each has ``classes`` of the labels; "unit":
    each has whole units of ``unit_column``. ``alpha``: of "dirichlet" and "size", the smaller, the more silos differ.
    ``minimum``: the fewest training rows of a silo. ``seed``: of the deal, which is the same in runs of other seeds.
    """

    silos: int = Field(ge=2, le=1000)
    by: Literal["dirichlet", "size", "iid", "classes", "unit"] = "dirichlet"
    alpha: float = Field(0.5, gt=0, allow_inf_nan=False)
    classes: int = Field(2, ge=1)
    minimum: int = Field(20, ge=4)
    seed: int = Field(0, ge=0)


class DataSettings(InputSettings, RowSettings):  # source and path come first
    """
    ``[data]`` of an experiment: every key with its default. ``path`` is absolute once an experiment is loaded.

    ``silos``: those that take part; []: all but ``silos_except``. ``min_rows`` and ``min_labels``: silos with fewer rows, or fewer
    different labels, before validation and test rows are split off, are left out. ``query``: of source "sql", the rows that are read. ``stream``: image files are read for each batch, and are
    never in memory together. ``late``: those that join after the last round,
    with ``shots`` rows; ``late_head``: how the head of such a silo is fitted, where heads stay at home: "trained", and
    in closed form as well, or "ridge": in closed form only.
    ``unit_column``: the column that says whose row it is. ``folds``: with 5, the rows are dealt to 5 parts, and part number
    ``fold`` (from 0) is tested on; ``test`` then has no meaning. ``split_column``: the column that says whether a row is one of
    "train", "val" or "test". ``split_seed``: decides which rows are for training, validation and testing; not set: the
    experiment's seed. ``tokenizer``: a file of Hugging Face's form, by which a column of ``text`` becomes the numbers of its first
    ``text_width`` tokens; "": its words are hashed. ``sets``: of source "torchvision". ``subset`` and ``revision``: of a set of the hub of
    Hugging Face, its configuration and its commit, branch or tag. Sets may be downloaded with ``download``. ``deal``: deal one set to simulated silos. ``by_record``: each row is read, split and
    prepared without looking at any other row; always so under ``[privacy]``. ``unlabelled``: silos whose training and
    validation labels are not used. ``label_fraction``: the share of these labels that the other silos keep, of all or by silo.
    ``wrong_labels``: by silo, the share of these labels that the simulation replaces by another class.
    ``public``: inputs that every silo and the server may see, for distillation: the name of a silo, which then does not train;
    "inputs:PATH", a file or folder as for fedtl predict; "prepared:PATH", a file that fedtl server bundle wrote; or "noise:N", N random
    inputs. Labels of these rows are not used.
    ``event``: of the tasks "survival" and "cox", the column that says whether the label is the time of an event (1) or of
    censoring (0). ``horizons``: of "survival", the times at which the probability of no event is predicted, in the unit of the label.
    ``class_weights`` and ``focal``: factors of the training loss of a classification (``tasks.classification``).
    """

    silos: list[str] = []
    silos_except: list[str] = []
    min_rows: int = Field(0, ge=0)
    min_labels: int = Field(1, ge=1)
    query: str = ""
    subset: str = ""
    revision: str = ""
    tokenizer: str = ""
    stream: bool = False
    late: list[str] = []
    shots: int = Field(20, ge=1)
    late_head: Literal["trained", "ridge"] = "trained"
    folds: int = Field(1, ge=1, le=100)
    fold: int = Field(0, ge=0)
    by_record: bool = False
    unit_column: str = ""
    sets: list[str] = []
    download: bool = False
    split_seed: int | None = Field(None, ge=0)
    split_column: str = ""
    deal: DealSettings | None = None
    unlabelled: list[str] = []
    label_fraction: LabelFraction | dict[str, LabelFraction] = 1.0
    wrong_labels: dict[str, Annotated[float, Field(gt=0, le=1)]] = {}
    public: list[str] = []
    event: str = ""
    horizons: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = []
    class_weights: Literal["none", "balanced"] | dict[Name, Annotated[float, Field(gt=0, le=1e6)]] = "none"
    focal: float = Field(0.0, ge=0, le=10)

    @property
    def predicted(self) -> "LearningTask":
        """What a model predicts."""
        from fedtl.tasks.registry import (
            TASKS,
        )  # here, because it needs torch, and idle processes of a site read settings too

        return TASKS[self.task].of(self)


WINDOW = "window"


def declared_range(settings: RowSettings) -> tuple[float, ...]:
    """Return the range of the images that a source reads: "window" gives numbers of 0..1; () where none is declared."""
    return (0.0, 1.0) if settings.pixel_range == WINDOW else tuple(map(float, settings.pixel_range))


# The keys that say what becomes of a column that is not a number, and with them all that name columns of a table.
KINDS = ("categories", "ordered", "dates", "hashed", "target_encoded", "text")
NAMES_COLUMNS = ("columns", *KINDS)

# What a plan says of [data]: the inputs, the labels, bounds, range, slices and codes of masks of the sites that have none of their own, and which sites it takes
# to have no labels, or not on all rows; whether a site uses its labels, and its rows without, is its own matter.
AGREED = (
    *InputSettings.model_fields,
    "classes",
    "mask_values",
    "mask_void",
    "bounds",
    "pixel_range",
    "slices",
    "unlabelled",
    "missing_labels",
)


def data_settings(rows: RowSettings, inputs: InputSettings) -> DataSettings:
    """Return the ``[data]`` table that has the keys of both."""
    return DataSettings(
        **{key: getattr(rows, key) for key in RowSettings.model_fields},
        **{key: getattr(inputs, key) for key in InputSettings.model_fields},
    )
