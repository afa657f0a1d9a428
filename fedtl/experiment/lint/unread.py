"""Rows and columns that add nothing, because what they hold was not declared: under privacy no row is refused for it."""

from collections.abc import Iterator

from fedtl.data.dataset import SiloDataset
from fedtl.data.labels import has_label
from fedtl.errors import FedTLError
from fedtl.experiment.study import Study


def unread(study: Study) -> Iterator[str]:
    """A line for each silo with rows without a usable label, and for each with columns of one value."""
    for name in study.training:
        try:
            yield from _of(name, study.data(name), study.inputs(name).columns)
        except FedTLError:
            continue  # why it has no rows is among what would be refused


def _of(name: str, data: SiloDataset, columns: tuple[str, ...]) -> Iterator[str]:
    train = data.train
    if without := int((~has_label(train)).sum()):
        what = "a label in data.classes" if data.classes else "a number as label"
        yield f"{name}: {without} of {len(train)} training rows do not have {what}; they train nothing; correct them or data.classes"
    if train.x.dim() != 2:
        return
    still = (train.x == train.x[0]).all(0).tolist()
    if alike := [column for column, one in zip(columns, still, strict=True) if one]:
        yield (
            f"{name}: {alike[0]} has one value in all {len(train)} training rows, as text without data.categories has; "
            "declare its categories, or leave it out of data.columns"
        )
