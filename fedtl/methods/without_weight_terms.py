"""The same model, trained without the terms on weights: what an audit compares private gradients with."""

from collections.abc import Iterable
from dataclasses import replace

from fedtl.methods.base import Method, terms_of
from fedtl.methods.losses import OnWeights, Term, WithoutGradient


def without_weight_terms(method: Method) -> Method:
    """Return the method without the gradients of its terms on weights, for the same model."""

    def silenced(terms: Iterable[Term]) -> tuple[Term, ...]:
        return tuple(WithoutGradient(term) if isinstance(term, OnWeights) else term for term in terms)

    phases = tuple(replace(phase, objective=silenced(terms_of(method, phase))) for phase in method.phases)
    return replace(method, objective=silenced(method.objective), phases=phases)
