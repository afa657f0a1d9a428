"""Checks that a loss which compares rows with and without labels, or one domain with another, has both kinds to compare."""

from collections.abc import Iterator

from fedtl.data.settings import DataSettings
from fedtl.errors import ConfigError
from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.config.schema import Experiment
from fedtl.methods.registry import BETWEEN_SILOS, TERMS


def target_contradictions(experiment: Experiment) -> Iterator[str]:
    """Yield a line where no rows are without labels, and for each loss to which those of the silos cannot matter."""
    try:
        method = method_of(experiment.method)
    except ConfigError:
        return  # contradictions() reports it
    data = experiment.data
    if method.needs_target and not (data.target_domain or may_lack_labels(data)):
        yield (
            f"method {experiment.method.name!r} adapts to a second domain; name it in data.target_domain, or the silos whose labels "
            "are not used in data.unlabelled"
        )
        return
    if method.pool or data.target_domain or _silos_have_both(data):
        return
    names = {make: name for name, make in TERMS.own.items()}
    for term in method.losses:
        name = names.get(type(term), type(term).__name__)
        if term.needs_target and not term.source_free:  # it needs both kinds of rows in one batch
            yield (
                f"{name} compares rows with and without labels of one silo, and with data.unlabelled no silo has both; use "
                f"{', '.join(BETWEEN_SILOS)}, or remove it"
            )
        elif term.needs_target and not method.shared and not term.summaries():
            yield (
                f"{name} trains on rows without labels, and method {experiment.method.name!r} trains no silo of data.unlabelled; use a method "
                "that shares a model, such as silobn, or remove it"
            )


def may_lack_labels(data: DataSettings) -> bool:
    """Return whether rows may be inputs without a label."""
    return bool(data.unlabelled) or _silos_have_both(data)


def _silos_have_both(data: DataSettings) -> bool:
    """Return whether a silo may have rows with and without labels of one domain."""
    shares = data.label_fraction.values() if isinstance(data.label_fraction, dict) else [data.label_fraction]
    return data.missing_labels == "inputs" or any(share < 1 for share in shares)
