"""A silo tunes the shared model, or the model of another silo where its validation rows clearly say that it is better."""

from operator import itemgetter

from fedtl.methods.base import Method, Use
from fedtl.methods.exact_statistics import ExactStatistics
from fedtl.methods.source_models import KeepSources, Sources, source_names, source_slots


def select_start(sources: Sources = 6) -> Method:
    """
    After Ge and Yu, 2017 (selective joint fine-tuning): as FedAvg, but each silo's validation rows choose which model it
    tunes: the shared one, or that of one silo where it is clearly better. ``sources``: how many silos train, at most; all their models cross.
    """
    others = tuple(itemgetter(name) for name in source_names(sources))
    return Method(
        slots=source_slots(sources),
        finish=(Use(others=others),),
        server=KeepSources(sources),
        exact_statistics=ExactStatistics.ALWAYS,
    )
