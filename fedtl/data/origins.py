"""
The origin of each value that a silo's rows are prepared with, before the differentially private mechanism reads them.

Clipping limits what one record adds to a sum. It does not limit what one record does to a mean, a list of classes or a
split that was learned from all records and then applied to each of them. So each such value carries its origin, and
private training refuses a value that was learned from rows without noise.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import StrEnum

from fedtl.errors import ConfigError


class Origin(StrEnum):
    """Where a value comes from."""

    DECLARED = (
        "declared"  # a setting, the source's documentation, the signed agreement, or the format of a file
    )
    RELEASED = "released"  # rows, with noise, charged to the ledger
    LEARNED = "learned"  # rows, without noise


@dataclass(frozen=True)
class Origins:
    """
    The origins of everything that one silo's rows are prepared with. A value without a stated origin counts as learned.

    ``split``: which rows are trained on, and so n. ``shape``: of one input. ``columns``: names and kinds. ``classes``: the
    list of labels. ``scale``: fill value, mean and spread of the inputs. ``label_scale``: mean and spread of the labels of a
    regression.
    """

    split: Origin = Origin.LEARNED
    shape: Origin = Origin.LEARNED
    columns: Origin = Origin.LEARNED
    classes: Origin = Origin.LEARNED
    scale: Origin = Origin.LEARNED
    label_scale: Origin = Origin.LEARNED


LEARNED = Origins()
DECLARED = Origins(*(Origin.DECLARED for _ in fields(Origins)))
REFUSED = "[privacy] is refused: "
REASONS = {
    "split": "which rows are trained on depends on the content of the rows; remove data.target_domain, data.split_column or data.deal (other than "
    'by "iid" or "size"), or use a source that reads each row by itself',
    "shape": "the size or the channels of the images are learned from the private images; set data.size and data.channels",
    "columns": "the columns are learned from the private rows; use a source that reads each row by itself",
    "classes": "the list of classes is learned from the private rows; declare every label that can occur: "
    'data.classes = ["...", "..."]',
    "scale": "missing values and the scale of the inputs are learned from the private rows; set data.pixel_range (images), or data.scale to a TOML file of "
    'constants, to "dp" with data.bounds, or to "none"',
    "label_scale": "the scale of the labels is learned from the private rows; set data.scale to a TOML file of constants, or "
    'to "none"',
}


def refusals(origins: Origins) -> Iterator[str]:
    """Yield a line for each value that was learned from rows without noise: what it is, and what to do."""
    for key, reason in REASONS.items():
        if getattr(origins, key) not in (Origin.DECLARED, Origin.RELEASED):
            yield reason


def check_origins(origins: Origins, silo: str) -> None:
    """Raise ConfigError, with the first reason, if a value was learned from rows without noise."""
    for reason in refusals(origins):
        raise ConfigError(f"{silo}: {REFUSED}{reason}")
