"""Checks of ``[silo.<name>.model]``: silos whose models differ."""

from collections.abc import Iterator

from fedtl.errors import ConfigError
from fedtl.experiment.config.resolve import method_of, model_arguments, silo_model
from fedtl.experiment.config.schema import Experiment


def silo_model_contradictions(experiment: Experiment) -> Iterator[str]:
    """Yield a line for each silo's model that cannot be built, or that another setting does not allow."""
    names = [name for name, own in experiment.silo.items() if own.model is not None]
    for name in names:
        try:
            model_arguments(silo_model(experiment, name))
        except ConfigError as error:
            yield str(error).replace("model.settings", f"silo.{name}.model.settings")
    if not names:
        return
    at = f"silo.{names[0]}.model"
    if experiment.privacy is not None:
        yield f"{at} and [privacy]: the accounting is of one model for all silos; remove one of them"
    if experiment.model.freeze:
        yield f"{at} and model.freeze = {experiment.model.freeze}, which counts stages of [model]; remove one of them"
    if experiment.model.adapters is not None:
        yield f"{at} and model.adapters, which change layers of [model]; remove one of them"
    try:
        method = method_of(experiment.method)
    except ConfigError:
        return  # the check of the method reports it
    if method.shared or any(slot.crosses for slot in method.slots):
        yield (
            f"{at}: method {experiment.method.name!r} averages tensors of the model, so all silos need the same one; use "
            '"fedmd", or "local"'
        )
