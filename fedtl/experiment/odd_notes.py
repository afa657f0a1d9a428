"""Notes about what a file or a column is, beyond its values: hidden rows, sums, dates, codes, and what only looks like an input."""

from collections.abc import Iterator, Mapping, Sequence

from fedtl.data.columns import columns_with_a_kind
from fedtl.data.labels import WHOLE_NUMBER
from fedtl.data.settings import DataSettings
from fedtl.data.spellings import shown_apart, spelled_alike
from fedtl.experiment.by_silo import by_silo
from fedtl.experiment.data_schema import SiloSchema

TWO_DIGITS = "%y"


def odd_notes(data: DataSettings, silos: Mapping[str, SiloSchema]) -> Iterator[str]:
    """Yield the notes; none of them may be given under ``[privacy]``."""
    if listed := by_silo({name: silo.remarks for name, silo in silos.items()}, quoted=False):
        yield f"look at what was read ({listed}); delete what is not wanted"
    yield from _of_palettes(silos)
    yield from _of_rows(silos)
    yield from _of_scales(silos)
    yield from _of_dates(data, silos)
    yield from _of_inputs(data, silos)
    telling = {
        name: [f"{what} ({value:.3f})" for what, value in silo.facts.telling] for name, silo in silos.items()
    }
    if listed := by_silo(telling, quoted=False):
        yield (
            f"what is no input nearly determines the label ({listed}), so a model can learn how rows were stored and not what they show; store the rows "
            "of all classes alike, such as in one format and size"
        )


def _of_palettes(silos: Mapping[str, SiloSchema]) -> Iterator[str]:
    """Yield a line where a number of a mask has another colour at one silo than at another."""
    first: dict[int, tuple[str, tuple[int, ...]]] = {}
    for name, silo in silos.items():
        for number, colour in silo.palette.items():
            other, its = first.setdefault(number, (name, colour))
            if its != colour:
                yield (
                    f"the number {number} of masks has the colour {its} at {other} and {colour} at {name}; the numbers are read and not their colours: "
                    "save all masks with one palette, if they mean other classes"
                )
                return


def _of_rows(silos: Mapping[str, SiloSchema]) -> Iterator[str]:
    summary = {
        name: [f"row {silo.facts.summary}"] for name, silo in silos.items() if silo.facts.summary is not None
    }
    if listed := by_silo(summary, quoted=False):
        yield f"a row is the sum or the mean of all others in every column ({listed}); if it is a total, remove it"
    if uniform := [name for name, silo in silos.items() if silo.facts.uniform]:
        yield f"all images of a silo are equal ({', '.join(uniform[:6])}), so there is nothing to learn; see how they were written"
    blank = {name: [f"{silo.facts.blank} of {silo.rows}"] for name, silo in silos.items() if silo.facts.blank}
    if listed := by_silo(blank, quoted=False):
        yield f"rows have no value in any input ({listed}), so a model sees the medians in their place; remove them"


def _of_scales(silos: Mapping[str, SiloSchema]) -> Iterator[str]:
    far = {
        name: [f"{column!r}: {value:g}, in {count} rows" for column, value, count in silo.facts.far]
        for name, silo in silos.items()
    }
    if listed := by_silo(far, quoted=False):
        yield (
            f"values lie more than 10,000 times as far from the median as most ({listed}), so all others become equal once they are scaled; correct "
            "them, or leave such cells empty"
        )
    scales = {
        name: [f"{column!r} {times:.3g} times" for column, times in silo.facts.scales]
        for name, silo in silos.items()
    }
    if listed := by_silo(scales, quoted=False):
        yield f"test rows vary much more or less than training rows ({listed}), as in another unit; prepare both alike"


def _of_dates(data: DataSettings, silos: Mapping[str, SiloSchema]) -> Iterator[str]:
    dated = {
        name: [f"{column!r}, such as {number}" for column, number in silo.facts.dated]
        for name, silo in silos.items()
    }
    if listed := by_silo(dated, quoted=False):
        yield (
            f"numbers are dates ({listed}), and are read as numbers, in which a month has 100 days; list such a column in data.dates"
        )
    placeholders = {
        name: [f"{column!r} = {text} in {count} rows" for column, text, count in silo.facts.placeholders]
        for name, silo in silos.items()
    }
    if listed := by_silo(placeholders, quoted=False):
        yield f"a date far from all others may stand for one that is not known ({listed}); leave such cells empty"
    if data.dates and TWO_DIGITS in data.date_format:
        yield (
            f"data.date_format = {data.date_format!r}: of two digits, 69 to 99 are years of 19.. and 00 to 68 of 20.., as for all programs of "
            "POSIX; write years of four digits where births are earlier"
        )


def _of_inputs(data: DataSettings, silos: Mapping[str, SiloSchema]) -> Iterator[str]:
    """Yield a line for columns of one name but for its spelling, and one for columns that only tell silos apart."""
    alike = {
        name: [" and ".join(shown_apart(group)) for group in spelled_alike(silo.columns)]
        for name, silo in silos.items()
    }
    if listed := by_silo(alike, quoted=False):
        yield f"columns have one name but for its spelling ({listed}), and each is an input; if they are one, list the other in data.drop"
    parts = {name for column in columns_with_a_kind(data) for name in column.inputs}
    constant = [frozenset(silo.facts.constant) - parts for silo in silos.values()]
    if len(constant) > 1 and (everywhere := sorted(frozenset.intersection(*constant))):
        yield (
            f"columns have one value in all rows of each silo ({', '.join(map(repr, everywhere[:6]))}), so they tell silos apart, or nothing; list them "
            "in data.drop"
        )


def code_notes(trained: Mapping[str, frozenset[str]]) -> Iterator[str]:
    """
    Yield a line where the labels of some silos are 0, 1, ... and those of others as many numbers from 1 on: one class may have two
    numbers. ``trained``: the labels of each silo's training rows.
    """
    whole = {
        name: sorted(map(int, labels))
        for name, labels in trained.items()
        if len(labels) > 1 and all(map(WHOLE_NUMBER.fullmatch, labels))
    }
    first = {name: own[0] for name, own in whole.items()}
    runs = all(own == list(range(own[0], own[0] + len(own))) for own in whole.values())
    if len(whole) < len(trained) or not runs or len({len(own) for own in whole.values()}) != 1:
        return
    if set(first.values()) == {0, 1}:
        zero, one = (_names(first, start) for start in (0, 1))
        yield (
            f"labels are numbered from 0 at {zero} and from 1 at {one}, so one class may have two numbers; if it has, number the classes of all silos "
            "alike"
        )


def _names(first: Mapping[str, int], start: int) -> str:
    names: Sequence[str] = [name for name, own in first.items() if own == start]
    return ", ".join(names[:3])
