"""Checks of ``[model.adapters]`` that the schema cannot make, and what a reader of a result should know of it."""

from collections.abc import Iterator

from fedtl.experiment.config.schema import Experiment

AT = "model.adapters"


def adapter_contradictions(experiment: Experiment) -> Iterator[str]:
    """Yield a line for each setting that contradicts ``[model.adapters]``, or needs it."""
    model, roles = experiment.model, experiment.train.roles
    if model.adapters is None:
        if "adapter" in roles:
            yield f"train.roles = {roles}: the model has no adapters; add [model.adapters], or remove the role"
        return
    where = model.adapters.where
    if len(set(where)) < len(where):
        yield f"{AT}.where = {where} lists an entry twice; list it once"
    if model.adapters.kind == "bottleneck" and model.adapters.alpha is not None:
        yield f'{AT}.alpha = {model.adapters.alpha:g} scales a low-rank change, not kind = "bottleneck"; remove it'
    if model.freeze:
        yield f"model.freeze = {model.freeze} and {AT}, which freezes the whole body; remove model.freeze"
    if "body" in roles:
        yield f'train.roles = {roles} and {AT}, which freezes the body; remove "body", or the table'
    if experiment.method.tune.what == "norm" and "norm" not in roles:
        yield (
            f'method.tune.what = "norm" and {AT}, which freezes the norms too; set train.roles = ["adapter", "norm", "head"], '
            'or method.tune.what = "all"'
        )


def adapter_notes(experiment: Experiment) -> Iterator[str]:
    """Yield notes on a frozen body that was never trained, and on the mean of trained pairs of matrices."""
    model = experiment.model
    if model.adapters is None:
        return
    if not (model.weights or model.pretrain_on or model.value):
        yield f"{AT}: the frozen body has random weights; set model.weights or model.pretrain_on"
    if model.adapters.kind == "lora":
        yield (
            f'{AT}.kind = "lora": silos average both matrices of a change, and the product of the means is not the mean of the '
            'products; "ffa-lora" averages exactly'
        )
