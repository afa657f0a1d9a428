"""What a method can do at a silo without labels."""

from fedtl.methods.base import HEAD, Method, Use, trained_roles, trains_on_all_rows
from fedtl.models.roles import Role


def trains_without_labels(method: Method) -> bool:
    """Return whether a silo without labels can train: a loss is defined on rows without labels alone."""
    return any(term.source_free for term in method.losses)


def made_with_labels(method: Method) -> frozenset[Role]:
    """
    Return the roles of the model that a silo keeps and trains on labels: what a silo without labels would lack. Empty: it can
    use the method. EXTRA: it would use a set of tensors that training at the silo made.
    """
    if method.pool:
        return frozenset()
    trained = frozenset({Role.HEAD})
    if not trains_without_labels(method):
        trained |= trained_roles(method)
    personal = {Role.EXTRA} if any(isinstance(step, Use) for step in method.finish) else set[Role]()
    return (trained - method.shared - {Role.STATS, Role.COUNT}) | personal


def trains_body_alone(method: Method) -> bool:
    """
    Return whether the rounds train a shared body by losses that need no labels, and each silo's own head comes after them: all
    silos may then be without labels, and end with a body that has no head yet.
    """
    return trains_on_all_rows(method) and made_with_labels(method) == HEAD


def without_labels(method: Method) -> str:
    """Return what a method does at a silo without labels, in a few words."""
    if made_with_labels(method):
        return "needs labels"
    if trains_without_labels(method):
        return "trains its losses that need no labels"
    if any(step.trained and step.at != "labelled" for step in method.finish):
        return "fits the shared model to its rows after the last round"
    return "adapts the norms' statistics of the shared model"
