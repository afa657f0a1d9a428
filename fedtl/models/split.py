"""
A whole model becomes a body and heads of any width: it is cut at its classifier. A model that would be another one after the
cut, or whose scores of a row depend on anything but that row, is refused with the reason. Which tensors leave a silo is in
``models.roles.Partition``.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fedtl.errors import FedTLError, ModelError
from fedtl.models.cut_checks import (
    check_copies,
    check_kept,
    check_plain_numbers,
    check_registered,
    check_tensors,
    plain_numbers,
)
from fedtl.models.failures import module_failure
from fedtl.models.heads import Heads, heads_like
from fedtl.models.net import ModelSpec, Net, Shape, seeded
from fedtl.models.norms import own_buffers
from fedtl.models.own_scores import check_own_scores, equal, run_pass


def split_at_classifier(model: nn.Module, classifier: str, shape: Shape, seed: int) -> ModelSpec:
    """
    Split ``model`` at the module whose path is ``classifier``: the body is the model without it. Parameters that do not
    require gradients are frozen.

    Raises ModelError unless head(body(x)) gives the scores [N, width], or [N, width, H, W] by pixel, of the whole model for random x of ``shape``, in
    evaluation mode and in training mode, and the scores of a row in evaluation mode depend on that row alone.
    """
    check_tensors(model)
    check_registered(model)
    x = random_inputs(model.eval(), shape)
    whole = _checked_scores(model, x)
    check_own_scores(model, x, whole)
    old_head = _classifier(model, classifier)
    model.set_submodule(classifier, nn.Identity())
    features = _features(model, x, classifier)
    heads = heads_like(old_head, features.dim() == 2)
    if not equal(_head_pass(heads.old, features), whole):
        if equal(_head_pass(old_head, features), whole):
            raise ModelError(
                f"the classifier {classifier!r} is a {type(old_head).__name__} that computes something else than the plain "
                "layer that fedtl would put in its place; choose another model"
            )
        raise _not_last(classifier)
    statistics = _check_training(model, heads, x, whole.shape)
    check_copies(model)
    if not equal(run_pass(model.eval(), x), features):
        raise ModelError(
            "training changes something that the model computes with and that is neither a parameter nor a buffer, so it would not be saved or "
            "sent; register it with register_buffer, persistent=True"
        )
    model.train()
    return ModelSpec(
        *(model, heads.make, features.shape[1], classifier, seed, shape, _frozen(model, heads)),
        from_conv=heads.from_conv,
        per_pixel=whole.dim() == 4,
        statistics=frozenset(f"body.{name}" for name in statistics),
    )


def _features(model: nn.Module, x: Tensor, classifier: str) -> Tensor:
    """Return what the classifier gets [N, features, ...], from a model with an Identity in its place. Raises ModelError."""
    try:
        features = run_pass(model, x)
    except ModelError as error:  # a layer behind the classifier cannot take the features
        raise _not_last(classifier, f" (without it: {error})") from error
    if not isinstance(features, Tensor):
        raise ModelError(f"the classifier {classifier!r} gets no tensor of features; choose another model")
    return features


def _not_last(classifier: str, reason: str = "") -> ModelError:
    return ModelError(
        f"the classifier {classifier!r} is not the last layer{reason}, so fedtl cannot use it as a head; return its scores as they are, before "
        "a softmax, or name the last layer (by a function that returns the model and the path of this layer), or choose another model"
    )


def _frozen(body: nn.Module, heads: Heads) -> frozenset[str]:
    """Return the net's names of the parameters that do not require gradients; the last layer of a new head does."""
    with seeded("cut", "head"):
        net = Net(body, heads.make(1), nn.ModuleDict())
    return frozenset(name for name, weight in net.named_parameters() if not weight.requires_grad)


def random_inputs(model: nn.Module, shape: Shape) -> Tensor:
    """
    Return two random rows that the model takes: normal values, or 0 and 1 for a model on integer codes. Raises ModelError.
    A lazy layer gets its shape here, with weights that depend on nothing but the fixed seed.
    """
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(2, *shape, generator=generator)
    codes = torch.randint(2, (2, *shape), generator=generator).float()
    failure: ModelError | None = None
    for x in (normal, codes):
        given = x.clone()
        try:
            run_pass(model, x)
        except ModelError as error:
            failure = failure or error
            continue
        if not torch.equal(x, given):
            raise ModelError(
                "the model changes its inputs, and so the rows of a silo; let it work on x.clone()"
            )
        return x
    assert failure is not None
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and weight.dtype != torch.float32:
            raise ModelError(
                f"{name} is of type {weight.dtype}, and fedtl needs float32; return model.float()"
            )
    raise ModelError(f"the model cannot take inputs of shape {shape}: {failure}") from failure


def _checked_scores(model: nn.Module, x: Tensor) -> Tensor:
    whole = run_pass(model, x)
    if not isinstance(whole, Tensor):
        raise ModelError(
            f"the model returns a {type(whole).__name__}, not one tensor of scores; let it return these alone, or choose another model"
        )
    by_pixel = whole.dim() == 4 and whole.shape[2:] == x.shape[2:]  # [N, width, H, W] of images
    if len(whole) != len(x) or (whole.dim() != 2 and not by_pixel):
        raise ModelError(
            f"{len(x)} inputs give scores of shape {tuple(whole.shape)}, not one row of scores each; choose another model"
        )
    if not whole.isfinite().all():
        raise ModelError(
            "the scores of random inputs (mean 0, deviation 1) are not finite; choose another model"
        )
    return whole


def _classifier(model: nn.Module, path: str) -> nn.Module:
    try:
        classifier = model.get_submodule(path)
    except AttributeError as error:
        raise ModelError(f"the model has no module {path!r} to cut at as its classifier") from error
    _check_head_is_trained(classifier, path, model)
    if classifier is model:
        raise ModelError("the whole model is its classifier; put it into a Sequential and name its path")
    inside = {id(weight) for weight in classifier.parameters()}
    outside = (
        weight for other in _others(model, classifier) for weight in other.named_parameters(recurse=False)
    )
    if shared := [name for name, weight in outside if id(weight) in inside]:
        raise ModelError(
            f"the classifier {path!r} shares its {shared[0]} with another layer, and a head of another width could not; "
            "choose another model"
        )
    return classifier


def _check_head_is_trained(classifier: nn.Module, path: str, model: nn.Module) -> None:
    """Raise ModelError where the author froze the classifier and trains the rest; where all is frozen, the head is what is trained."""
    trained = [weight.requires_grad for weight in classifier.parameters()]
    if trained and not any(trained) and any(weight.requires_grad for weight in model.parameters()):
        raise ModelError(
            f"the classifier {path!r} is frozen, and fedtl trains a new head in its place; let it require gradients"
        )


def _others(model: nn.Module, classifier: nn.Module) -> list[nn.Module]:
    within = set(classifier.modules())
    return [module for module in model.modules() if module not in within]


def _check_training(body: nn.Module, heads: Heads, x: Tensor, shape: torch.Size) -> list[str]:
    """
    Return the names of the body's buffers that are statistics of its inputs. Raise ModelError where a pass in training mode, or its
    gradient, fails, gives something else than scores, or draws random numbers that torch's seed does not fix. Nothing is changed.
    """
    before = {name: buffer.clone() for name, buffer in body.named_buffers()}
    numbers = plain_numbers(body)
    weights = {name: weight for name, weight in body.named_parameters() if weight.requires_grad}
    try:
        scores = _training_scores(body, heads, x)
        if scores.shape != shape:
            raise ModelError(
                f"in training mode the scores have shape {tuple(scores.shape)}, in evaluation mode {tuple(shape)}"
            )
        without = _without_gradient(weights, scores)
        check_kept(body, before)
        check_plain_numbers(body, numbers)
        after = _restored(body, before)
        if not equal(_training_scores(body, heads, x).detach(), scores.detach()):
            raise ModelError(
                "in training mode the same rows get other scores each time: draw random numbers with torch alone, not random or numpy, and "
                "register what training changes with register_buffer, persistent=True"
            )
        for name in without:
            _restored(body, before)
            _check_is_unused(body, heads, x, name, scores.detach())
        _restored(body, before)
        _training_scores(body, heads, x[:1].expand_as(x).clone())
        other = _restored(body, before)
        return [name for name in own_buffers(body) if not torch.equal(after[name], other[name])]
    except FedTLError:
        raise
    except Exception as error:
        reason = module_failure(error)
        if isinstance(error, torch.OutOfMemoryError) or (
            reason is None and not isinstance(error, RuntimeError)
        ):
            raise
        raise ModelError(f"in training mode: {reason or _no_gradient(error)}") from error
    finally:
        _restored(body, before)


def _without_gradient(weights: Mapping[str, Tensor], scores: Tensor) -> list[str]:
    """Return the names of those of the ``weights`` that the scores give no gradient to."""
    if not weights or not scores.requires_grad:
        return list(weights)
    gradients = torch.autograd.grad(scores.sum(), list(weights.values()), allow_unused=True)
    return [name for name, gradient in zip(weights, gradients, strict=True) if gradient is None]


@torch.no_grad()
def _check_is_unused(body: nn.Module, heads: Heads, x: Tensor, name: str, scores: Tensor) -> None:
    """Raise ModelError for a parameter without a gradient of which other values give other scores. It is not changed."""
    weight = body.get_parameter(name)
    values = weight.clone()
    try:
        weight.add_(1.0)
        used = not equal(_training_scores(body, heads, x), scores)
    finally:
        weight.copy_(values)
    if used:
        raise ModelError(
            f"{name} changes the scores and has no gradient, so it would not be trained: something between it and the scores cuts the "
            "gradient (detach, no_grad, numpy); let it pass, or freeze the parameter with requires_grad_(False)"
        )


def _training_scores(body: nn.Module, heads: Heads, x: Tensor) -> Tensor:
    """Return the scores in training mode, with the same random numbers each time. Raises ModelError for a second output."""
    with seeded("cut", "training"):
        features = body.train()(x)
        if not isinstance(features, Tensor):
            raise ModelError(
                f"in training mode the body returns a {type(features).__name__}: a second output, which no loss would "
                "train; build the model without auxiliary outputs"
            )
        scores: Tensor = heads.old(features)
        return scores


@torch.no_grad()
def _restored(body: nn.Module, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the buffers their values of ``before``; return what they were."""
    left = {name: buffer.clone() for name, buffer in body.named_buffers()}
    for name, buffer in body.named_buffers():
        buffer.copy_(before[name])
    return left


def _no_gradient(error: Exception) -> str:
    return f"the scores have no gradient ({(str(error).splitlines() or [''])[0]})"


def _head_pass(head: Callable[[Tensor], Tensor], features: Tensor) -> Tensor | None:
    """Return a head's scores; None where the features are not an input for it, because something stands between them."""
    try:
        with torch.no_grad():
            return head(features)
    except (RuntimeError, ValueError):
        return None
