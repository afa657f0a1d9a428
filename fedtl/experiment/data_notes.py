"""Notes about rows that are accepted, but that a reader of the result should know of."""

from collections.abc import Iterator

from fedtl.data.count_unit import declared_count
from fedtl.data.labels import merge_labels
from fedtl.experiment.by_silo import by_silo, first_of
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.data_schema import DataSchema
from fedtl.experiment.row_notes import row_notes
from fedtl.methods.base import Method, own_labels

# Of the mean count times train.lr / (1 - momentum), which is how far steps go together. With the model mlp and the default rate, 0.05 at momentum
# 0.9, counts of mean 3 (1.5) are learned, and of mean 5 (2.5) diverge; at 1, means from 5 to 300 are learned.
LARGE_STEP = 2.0
# Times between the labels of two silos, from which on their unit is in question: days and weeks are 7, days and months 30, mg/dl and mmol/l 18.
OTHER_UNIT = 15.0


def data_notes(experiment: Experiment, method: Method, schema: DataSchema) -> Iterator[str]:
    """
    Yield a note where the silos are simulated ones, and for labels and values that silos lack; none of the latter under
    ``[privacy]``, where it would tell what rows hold.
    """
    if (deal := experiment.data.deal) is not None:
        how = {
            "dirichlet": f"by Dirichlet shares of each label, alpha = {deal.alpha:g}",
            "size": f"by Dirichlet shares of all rows, alpha = {deal.alpha:g}",
            "iid": "in equal shares",
            "classes": f"so that each has {deal.classes} of the labels",
            "unit": f"so that each has whole units of {experiment.data.unit_column}",
        }[deal.by]
        yield f"the {deal.silos} silos are simulated: one set of rows, dealt {how} (data.deal, seed = {deal.seed})"
    if schema.stored:
        pairs = [f"{name} is {stored!r} in the data" for name, stored in schema.stored.items()]
        yield f"silos have plain names: {first_of(pairs, 6, ', ')}"
    if schema.left_out:
        rule = (
            f"data.min_rows = {experiment.data.min_rows} and data.min_labels = {experiment.data.min_labels}"
        )
        small = [f"{name}: {has}" for name, has in schema.left_out.items()]
        yield f"{rule} leave out {len(small)} of {len(small) + len(schema.silos)} silos ({'; '.join(small)})"
    yield from row_notes(experiment, schema)
    if experiment.privacy is not None:
        yield from _of_private_counts(experiment)
        return
    yield from _of_counts(experiment, schema)
    yield from _of_sizes(schema)
    others = {*experiment.model.pretrain_on, *experiment.data.unlabelled}
    silos = {name: silo for name, silo in schema.silos.items() if name not in others}
    single = {name: sorted(silo.trained) for name, silo in silos.items() if len(silo.trained) == 1}
    if experiment.data.predicted.has_classes and (listed := by_silo(single)):
        yield (
            f"all training rows of some silos have one label ({listed}); trained on them alone, a model gives it to every row; "
            "data.min_labels = 2 leaves them out, and data.unlabelled lets them receive the shared model and be scored"
        )
    if own_labels(method) and experiment.data.predicted.has_classes:
        every = frozenset[str]().union(*(silo.trained for silo in silos.values()))
        lacking = {name: merge_labels([sorted(every - silo.trained)]) for name, silo in silos.items()}
        if listed := by_silo(lacking):
            yield f"some silos have no row with a label of the others ({listed}); where their heads stay at home, their models cannot predict it"
    if listed := by_silo({name: silo.empty for name, silo in silos.items()}):
        yield f"some silos have no value in a column ({listed}); this input is constant there"


def _of_private_counts(experiment: Experiment) -> Iterator[str]:
    """Yield a line for counts that are trained in their own unit, because the mean of a silo's rows would be a release."""
    data = experiment.data
    if data.predicted.relative and declared_count(data) == 1.0:
        declared = (
            f"data.bounds.{data.label} = [low, high, a usual count]"
            if data.scale == "dp"
            else f"[{data.label}] with mean = a usual count (and any std above 0) in the file of data.scale"
        )
        yield (
            "under [privacy] counts are not divided by a silo's mean, which would be a release, so counts far from 1 are learned slowly; declare "
            f"{declared}"
        )


def _of_counts(experiment: Experiment, schema: DataSchema) -> Iterator[str]:
    """Yield a line for counts that are large for the learning rate: the gradient grows with them, as scores are their logarithms."""
    train = experiment.train
    if train.optimizer != "sgd" or experiment.data.scale == "silo":  # then counts are divided by their mean
        return
    unit = declared_count(experiment.data)
    means = {
        name: silo.mean_count / unit for name, silo in schema.silos.items() if silo.mean_count is not None
    }
    step = train.lr / (1 - train.momentum)
    large = {name: [f"{mean:.3g}"] for name, mean in means.items() if step * mean > LARGE_STEP}
    if listed := by_silo(large, quoted=False):
        proposed = LARGE_STEP / 2 * (1 - train.momentum) / max(means.values())
        yield (
            f"the mean count{'' if unit == 1 else f' over {unit:g}'} is large for train.lr = {train.lr:g} ({listed}), so training may diverge; set train.lr = {proposed:.1g}, with more "
            'rounds, or data.scale = "silo"'
        )


def _of_sizes(schema: DataSchema) -> Iterator[str]:
    """Yield a line where the numbers that two silos predict are of so different a size that their unit is in question."""
    constant = [name for name, silo in schema.silos.items() if silo.label_size == 0]
    if constant:
        yield f"the label is the same number, or 0, in all training rows of {first_of(constant, 6, ', ')}, so nothing can be learned there"
    sizes = {name: silo.label_size for name, silo in schema.silos.items() if silo.label_size}
    if not sizes:
        return
    small, large = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    if (times := sizes[large] / sizes[small]) >= OTHER_UNIT:
        yield (
            f"labels of {large} are {times:.3g} times as large as those of {small} ({sizes[large]:.3g} and {sizes[small]:.3g}, as the median or "
            "the standard deviation), so their units may differ; convert them to one unit, because the loss and the mean over silos compare them"
        )
