"""Which silos have labels that an experiment does not use."""

from fedtl.data.plain_names import plain_name
from fedtl.data.settings import DataSettings


def is_unlabelled(settings: DataSettings, stored: str) -> bool:
    """
    Whether the labels of a silo, by its name in the source, are not used. Its source must not let them decide anything: the order of
    its rows, how the labels of other silos are read, or whether its rows can be read at all.
    """
    return bool({stored, plain_name(stored)} & set(settings.unlabelled))
