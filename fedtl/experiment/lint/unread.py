"""Rows without a usable label, and columns with one value. Under privacy neither is refused; they add nothing to training."""

from collections.abc import Iterator

from fedtl.data.dataset import SiloDataset
from fedtl.data.labels import has_label
from fedtl.errors import FedTLError
from fedtl.experiment.study import Study


def unused_rows(study: Study) -> Iterator[str]:
    """Yield a line for each silo with rows without a usable label, and for each with a column of one value."""
    for name in study.training:
        try:
            yield from _of(name, study.data(name), study.silo_data.inputs(name).columns)
        except FedTLError:
            continue  # the dry run reports why


def _of(name: str, data: SiloDataset, columns: tuple[str, ...]) -> Iterator[str]:
    train = data.train
    if without := int((~has_label(train)).sum()):
        wanted = "a label in data.classes" if data.classes else "a number as label"
        yield f"{name}: {without} of {len(train)} training rows do not have {wanted} and are not used; correct them or data.classes"
    if train.x.ndim != 2:
        return
    constant = (train.x == train.x[0]).all(0).tolist()
    if alike := [column for column, is_constant in zip(columns, constant, strict=True) if is_constant]:
        yield (
            f"{name}: column {alike[0]} has the same value in all {len(train)} training rows, as a text column without "
            "data.categories has; declare its categories, or remove it from data.columns"
        )
