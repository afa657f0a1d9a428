"""What was read of an experiment's data, and what was not: ``fedtl data EXP --json``."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class SiloRows:
    """
    ``stored``: rows that the source has; ``train``, ``val`` and ``test``: those used, as inputs of the kind ``inputs``.
    ``without_label``: training and validation rows whose label is missing or not used. ``units``: the training units, where a
    column names them. ``labels``: training rows by label, as stored; ``values``: the range, mean and deviation of the target
    of a regression. ``ignored``: columns of the file that are not inputs. ``unread``: what else was not read, and why.
    ``missing``: missing cells by column. ``constant``, ``counting``, ``running``, ``copies``, ``sentinels``, ``decisive`` and
    ``repeated``: as in ``data.facts``. ``tested_on_training_rows``: test rows with the inputs of a training row.
    """

    stored: int
    train: int
    val: int
    test: int
    inputs: str
    without_label: int = 0
    units: int | None = None
    labels: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    missing: Mapping[str, int] = field(default_factory=dict)
    constant: tuple[str, ...] = ()
    counting: tuple[str, ...] = ()
    running: tuple[str, ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)
    sentinels: Mapping[str, float] = field(default_factory=dict)
    decisive: Mapping[str, float] = field(default_factory=dict)
    repeated: int = 0
    tested_on_training_rows: int = 0


@dataclass(frozen=True)
class DataReport:
    """``common``: by "one, other", the training rows that two silos have in common. ``notes``: what to look at first."""

    silos: Mapping[str, SiloRows]
    common: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
