"""The count that counts are divided by for training where it is declared, and not learned from a silo's rows."""

from pathlib import Path

from fedtl.data.constants import bounds_for, read_constants_file
from fedtl.data.settings import SCALES, DataSettings
from fedtl.errors import ConfigError, ConstantsError


def declared_count(settings: DataSettings) -> float:
    """
    Return the count that counts are divided by for training: the mean of the label's own entry in the file of constants, or with
    bounds its fill value; 1 without such an entry. Raises ConfigError or ConstantsError for one that is not above 0.
    """
    if settings.scale == "dp" and settings.label in settings.bounds:
        (bounds,) = bounds_for(settings.bounds, [settings.label])
        if bounds.fill <= 0:
            raise ConfigError(
                f"data.bounds.{settings.label}: counts are divided by the fill value, which is {bounds.fill:g} and must be above 0: write "
                "[low, high, fill] with a usual count"
            )
        return bounds.fill
    if settings.scale in SCALES:
        return 1.0
    own = read_constants_file(Path(settings.scale)).get(settings.label)
    if own is not None and own.mean <= 0:
        raise ConstantsError(
            f"data.scale: {settings.scale}: counts are divided by mean of [{settings.label}], which is {own.mean:g} and must be above 0"
        )
    return 1.0 if own is None else own.mean
