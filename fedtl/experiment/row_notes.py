"""Notes about what was read and what was not, and about rows that make a result look better than it is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fedtl._util.counted import counted
from fedtl.data import table
from fedtl.data.facts import NO_FACTS
from fedtl.data.formats import CONVERSIONS, unread_data_files
from fedtl.data.settings import DataSettings
from fedtl.data.spellings import shown_apart, spelled_alike
from fedtl.experiment.by_silo import by_silo, first_of
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.data_schema import MAX_ASPECT, DataSchema, SiloSchema
from fedtl.experiment.image_notes import image_notes
from fedtl.experiment.odd_notes import code_notes, odd_notes

MIN_SHARE = 0.05  # of the rows of a silo; fewer repeated ones do not change a result much
MAX_CHANNELS = 4  # of what is surely an image
READ = {"table": table.SUFFIXES, "npz": (".npz",)}  # by source, what a folder of silos' files is read for
MANY_LABELS = 10
PARTS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
PARTS_OF = {  # by source, how a silo comes with parts
    "images": "folders <path>/<silo>/train, val and test",
    "table": "one table a silo with a column that says train, val or test, and data.split_column",
    "npz": "one file a silo with the arrays train_x, train_y, test_x and test_y",
}
NAMELESS = "Unnamed: "  # how pandas names a column without a name


def row_notes(experiment: Experiment, schema: DataSchema) -> Iterator[str]:
    """Yield the notes. Under ``[privacy]`` only those that follow from the header of the files and the shape of an input."""
    if experiment.data.source != "images":  # image files say themselves what they hold
        yield from _of_shape(schema.shape)
    yield from _of_files(experiment.data)
    yield from _of_names(schema, experiment.data.source)
    silos = schema.silos
    if experiment.privacy is not None:
        yield from index_notes({name: replace(silo, facts=NO_FACTS) for name, silo in silos.items()})
        return
    yield from index_notes(silos)
    if listed := by_silo({name: silo.unread for name, silo in silos.items()}, quoted=False):
        yield f"not everything was read ({listed})"
    hidden = {*experiment.data.unlabelled, *experiment.model.pretrain_on}
    if experiment.data.predicted.has_classes:
        shown = {name: silo for name, silo in silos.items() if name not in hidden}
        yield from _of_labels({name: silo.trained for name, silo in shown.items()})
        yield from _of_many_labels(shown)
        yield from code_notes({name: silo.trained for name, silo in shown.items()})
    yield from _of_one_sided(silos)
    yield from _of_horizons(experiment.data.horizons, silos)
    yield from _of_columns(silos)
    yield from odd_notes(experiment.data, silos)
    yield from _of_copies(schema, bool(experiment.data.unit_column))
    yield from image_notes(experiment.data, silos)


def _of_files(data: DataSettings) -> Iterator[str]:
    """Yield a line for files that may hold rows and lie next to those of the silos."""
    folder, read = Path(data.path), READ.get(data.source)
    if read and data.path and folder.is_dir() and (files := unread_data_files(folder, read)):
        names = ", ".join(file.name for file in files[:3]) + (", ..." if len(files) > 3 else "")
        use = CONVERSIONS[files[0].suffix.lower()]
        yield f"{counted(len(files), 'file')} next to those of the silos not read ({names}); to read {files[0].suffix}, use {use}"


def _of_names(schema: DataSchema, source: str) -> Iterator[str]:
    """Yield a line for silos that are named like the parts of one set."""
    names = [schema.stored.get(name, name) for name in schema.silos]
    if len(names) > 1 and all(name.lower() in PARTS for name in names):
        yield (
            f"the silos are named like parts of one set ({', '.join(names)}), and each is used as a silo of its own; if they are parts, store them as "
            f"those of one silo: {PARTS_OF.get(source, 'see docs/sources.md')}"
        )


def _of_shape(shape: tuple[int, ...]) -> Iterator[str]:
    if len(shape) != 3:
        return
    channels, height, width = shape
    if channels > MAX_CHANNELS:
        yield (
            f"each input is read as an image of {height} x {width} px with {channels} channels; if it is a volume [D, H, W], set "
            'data.kind = "volumes"'
        )
    elif max(height, width) > MAX_ASPECT * min(height, width):
        yield (
            f"each input is read as an image of {height} x {width} px with {channels} channels, whose neighbouring columns are "
            "neighbouring pixels; if it is a series of measurements, set data.sequence"
        )
    elif channels == 1 and height != width:
        yield (
            f"each input is read as a grey image of {height} x {width} px; if it is a series of measurements, set data.sequence"
        )


def _of_one_sided(silos: Mapping[str, SiloSchema]) -> Iterator[str]:
    """Yield a line for labels that cannot be learned at some silos, and which of them at none."""
    own = {name: silo.one_sided for name, silo in silos.items()}
    if listed := by_silo(own):
        nowhere = sorted(frozenset.intersection(*map(frozenset, own.values())))
        end = (
            f"; {', '.join(map(repr, nowhere))} cannot be learned at any silo: leave out this label, or add rows"
            if nowhere
            else ""
        )
        yield f"all training rows of a silo have the same value of a label ({listed}), so it cannot be learned there{end}"


def _of_horizons(horizons: Sequence[float], silos: Mapping[str, SiloSchema]) -> Iterator[str]:
    latest = {name: silo.latest for name, silo in silos.items() if silo.latest is not None}
    for end in horizons:
        early = {name: [f"{time:g}"] for name, time in latest.items() if time < end}
        if listed := by_silo(early, quoted=False):
            everywhere = (
                "" if len(early) < len(latest) else ", and no silo says anything about survival until then"
            )
            yield f"the horizon {end:g} lies after the latest time of a training row ({listed}){everywhere}; lower data.horizons"
            return


def _of_labels(trained: Mapping[str, frozenset[str]]) -> Iterator[str]:
    for group in spelled_alike(frozenset().union(*trained.values())):
        where = [
            f"{shown} at {', '.join([name for name, own in trained.items() if label in own][:3])}"
            for label, shown in zip(group, shown_apart(group), strict=True)
        ]
        yield f"these may be one label in several spellings: {'; '.join(where)}; spell it in one way"
    alone = [
        name
        for name, own in trained.items()
        if own and not any(own & other for each, other in trained.items() if each != name)
    ]
    if len(trained) > 1 and alone:
        yield f"no other silo has a label of {', '.join(alone[:6])}"


def _of_many_labels(silos: Mapping[str, SiloSchema]) -> Iterator[str]:
    """Yield a line for a column of labels that seems to be a number, or a name of each row."""
    many = {
        name: [f"{len(silo.trained)} labels in {silo.rows} rows"]
        for name, silo in silos.items()
        if len(silo.trained) >= MANY_LABELS and len(silo.trained) > silo.rows / 2
    }
    if listed := by_silo(many, quoted=False):
        yield (
            f'there are almost as many labels as rows ({listed}); if the label is an amount, set data.task = "regression"; if it names '
            "the rows, data.label is another column"
        )


def index_notes(silos: Mapping[str, SiloSchema]) -> Iterator[str]:
    """
    Yield a note for inputs without a name in the header and, where facts about rows were looked up, for inputs that count or name
    the rows.
    """
    facts = {name: silo.facts for name, silo in silos.items()}
    counting = {column for own in facts.values() for column in own.counting}
    nameless = {
        name: [column for column in silo.columns if column.startswith(NAMELESS) and column not in counting]
        for name, silo in silos.items()
    }
    if listed := by_silo(nameless):
        yield f"a column has no name in the header and is an input ({listed}); name it, or list it in data.drop"
    if listed := by_silo({name: own.counting for name, own in facts.items()}):
        yield f"a column counts the rows ({listed}); if the number means nothing, list it in data.drop"
    running = {
        name: [column for column in own.running if column not in own.counting] for name, own in facts.items()
    }
    if listed := by_silo(running):
        yield f"a column of whole numbers has as many values as rows ({listed}); if it names the rows, list it in data.drop"


def _of_columns(silos: Mapping[str, SiloSchema]) -> Iterator[str]:
    facts = {name: silo.facts for name, silo in silos.items()}
    decisive = {
        name: [f"{column!r} ({value:.3f})" for column, value in own.decisive] for name, own in facts.items()
    }
    if listed := by_silo(decisive, quoted=False):
        yield (
            f"a column alone nearly determines the label ({listed}: AUC, rank correlation, or the share of rows "
            "that a few intervals predict); if its values are known only after the label, list it in data.drop"
        )
    if listed := by_silo({name: own.together for name, own in facts.items()}):
        yield (
            f"these columns together give the label of every row, as the other columns of a one-hot label do ({listed}); if their values "
            "are known only after the label, list them in data.drop"
        )
    sentinels = {
        name: [f"{column!r} = {value:g} in {count} rows" for column, value, count in own.sentinels]
        for name, own in facts.items()
    }
    if listed := by_silo(sentinels, quoted=False):
        yield f"a number far from all others may stand for a missing value ({listed}); leave such cells empty"
    thousands = {
        name: [f"{column!r}: {whole:g} and {part:.3f}" for column, whole, part in own.thousands]
        for name, own in facts.items()
    }
    if listed := by_silo(thousands, quoted=False):
        yield (
            f"a column has whole numbers of three digits and fractions of three digits ({listed}); if the mark separates thousands, write these numbers "
            "without it"
        )


def _of_copies(schema: DataSchema, units: bool) -> Iterator[str]:
    """``units``: whether a column already says which rows belong together."""
    silos, way_out = schema.silos, "" if units else ", or set data.unit_column to what they have in common"
    repeated = {
        name: [f"{silo.facts.repeated} of {silo.rows} rows"]
        for name, silo in silos.items()
        if silo.facts.repeated > MIN_SHARE * silo.rows
    }
    if listed := by_silo(repeated, quoted=False):
        yield (
            f"inputs occur several times ({listed}), so rows that a model is tested on can be rows that it was trained on; remove "
            f"the copies{way_out}"
        )
    belonging = {
        name: [f"{column!r}: {count} values" for column, count in silo.facts.belonging]
        for name, silo in silos.items()
    }
    if not units and (listed := by_silo(belonging, quoted=False)):
        yield (
            f"each value of a column is in several rows, and all of them have one label ({listed}), as rows of one patient or one series have; if so, "
            "set data.unit_column to it, otherwise a model is tested on people it was trained on; for series, set data.sequence"
        )
    leaked = {name: [f"{silo.facts.leaked} rows"] for name, silo in silos.items() if silo.facts.leaked}
    if listed := by_silo(leaked, quoted=False):
        yield f"validation or test rows have the inputs of training rows ({listed}); remove them there"
    pairs = [
        f"{one} and {other}: {count} rows"
        for one, other, count in schema.common
        if count > MIN_SHARE * min(silos[one].rows, silos[other].rows)
    ]
    if pairs:
        yield f"silos have rows in common ({first_of(pairs, 3, '; ')}); they are then tested on what others trained on"
    near = {
        name: [f"{silo.facts.near_leaked} rows"] for name, silo in silos.items() if silo.facts.near_leaked
    }
    if listed := by_silo(near, quoted=False):
        yield f"validation or test rows are nearly training rows, but for rounding ({listed}); if they are copies, remove them there"
    if schema.near_common:
        pairs = [f"{one} and {other}: {count} rows" for one, other, count in schema.near_common]
        yield (
            f"silos have rows that are nearly the same, but for rounding ({first_of(pairs, 3, '; ')}); if they are copies, remove them at one silo"
        )
