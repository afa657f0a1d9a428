"""
The methods and the loss terms that an experiment may name under ``[method]``. A new loss is a line of ``TERMS``; a loss
in one of the tables before it is a method, too.
"""

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, get_type_hints

from fedtl._util.registry import Registry
from fedtl.methods import sharing
from fedtl.methods.apfl import apfl
from fedtl.methods.armul import armul
from fedtl.methods.autodial import autodial
from fedtl.methods.base import Method
from fedtl.methods.coral import Coral
from fedtl.methods.dann import DomainAdversarial
from fedtl.methods.denoise import Denoise
from fedtl.methods.ditto import ditto
from fedtl.methods.entropy import Entropy
from fedtl.methods.fedala import fedala
from fedtl.methods.feddf import feddf
from fedtl.methods.fedmd import fedmd
from fedtl.methods.fedproto import fedproto
from fedtl.methods.ifca import ifca
from fedtl.methods.infomax import InformationMaximisation
from fedtl.methods.jdot import JointTransport
from fedtl.methods.kd3a import kd3a
from fedtl.methods.l2sp import StartingPoint
from fedtl.methods.losses import PerBatch, PerExample, Proximal, Term
from fedtl.methods.masked import Masked
from fedtl.methods.mcc import MinimumClassConfusion
from fedtl.methods.mmd import MaximumMeanDiscrepancy
from fedtl.methods.moon import moon
from fedtl.methods.mrmtl import mrmtl
from fedtl.methods.near_target import NearTarget
from fedtl.methods.protonet import protonet
from fedtl.methods.pseudo_label import PseudoLabel
from fedtl.methods.randconv import RandomConvolution, randconv
from fedtl.methods.ridge import ridge
from fedtl.methods.scaffold import scaffold
from fedtl.methods.scarf import Scarf
from fedtl.methods.select_start import select_start
from fedtl.methods.self_supervised import self_supervised
from fedtl.methods.shot import shot
from fedtl.methods.silo_coral import SiloCoral
from fedtl.methods.silo_dann import ConditionalAdversarial, SiloAdversarial
from fedtl.methods.silo_mmd import JointDiscrepancy, SiloMeanDiscrepancy
from fedtl.methods.simclr import SimCLR
from fedtl.methods.simultaneous import simultaneous
from fedtl.methods.soft_labels import SoftLabels
from fedtl.methods.vicreg import VICReg

# Each is a term, and a method of the same name: fedtl with that term, for silos that have a second domain.
ADAPTATION: dict[str, Callable[..., Term]] = {
    "dann": DomainAdversarial,
    "mmd": MaximumMeanDiscrepancy,
    "coral": Coral,
}
# Likewise: silobn, whose head is shared, with that term, for silos of which some have no labels.
BETWEEN_SILOS: dict[str, Callable[..., Term]] = {
    "silo_mmd": SiloMeanDiscrepancy,
    "jan": JointDiscrepancy,
    "silo_coral": SiloCoral,
    "silo_dann": SiloAdversarial,
    "cdan": ConditionalAdversarial,
    "jdot": JointTransport,
    "near_target": NearTarget,
}
# Likewise, with terms that need no labels and nothing of other silos.
SOURCE_FREE: dict[str, Callable[..., Term]] = {
    "entropy": Entropy,
    "infomax": InformationMaximisation,
    "mcc": MinimumClassConfusion,
    "pseudo_label": PseudoLabel,
}
# Likewise: the method trains the body by this term alone, and labels train heads only.
SELF_SUPERVISED: dict[str, Callable[..., PerExample | PerBatch]] = {
    "denoise": Denoise,
    "masked": Masked,
    "simclr": SimCLR,
    "vicreg": VICReg,
    "scarf": Scarf,
}


def adaptation(term: Callable[..., Term]) -> Callable[..., Method]:
    """Return the method that shares as ``fedtl`` does and adds this term; it has the term's settings."""
    return _with_term(term, sharing.fedtl, "for silos with a second domain")


def between_silos(term: Callable[..., Term]) -> Callable[..., Method]:
    """Return the method that shares as ``silobn`` does and adds this term; it has the term's settings."""
    return _with_term(term, sharing.silobn, "for silos without labels")


def _with_term(term: Callable[..., Term], base: Callable[[], Method], whom: str) -> Callable[..., Method]:
    @wraps(term, updated=())
    def method(**settings: object) -> Method:
        return base().plus(term(**settings))

    # Those of the fields that a term inherits, too: a setting's type checks its value.
    method.__annotations__ = get_type_hints(term, include_extras=True)
    paper, _, idea = (term.__doc__ or "").strip().partition("\n\n")[0].partition(": ")
    method.__doc__ = f"{paper}, {whom}; shares as {base.__name__} does: {idea}"
    return method


def self_taught(term: Callable[..., PerExample | PerBatch]) -> Callable[..., Method]:
    """Return the method whose rounds minimise this term alone (``self_supervised``); it has the settings of both."""
    own = [one for name, one in signature(self_supervised).parameters.items() if name != "term"]

    @wraps(term, updated=())
    def method(**settings: Any) -> Method:
        given = {one.name: settings.pop(one.name) for one in own if one.name in settings}
        return self_supervised(term(**settings), **given)

    method.__signature__ = signature(term).replace(  # type: ignore[attr-defined]
        parameters=[*signature(term).parameters.values(), *own], return_annotation=Method
    )
    hints = get_type_hints(self_supervised, include_extras=True)
    method.__annotations__ = get_type_hints(term, include_extras=True) | {
        one.name: hints[one.name] for one in own
    }
    paper, _, idea = (term.__doc__ or "").strip().partition("\n\n")[0].partition(": ")
    method.__doc__ = f"{paper}, without labels; labels train heads only: {idea}"
    return method


PLAIN = (
    *(sharing.local, sharing.probe, sharing.pooled, sharing.fedavg, sharing.fedprox, sharing.fedbn),
    *(sharing.silobn, sharing.fedper, sharing.fedrep, sharing.fedbabu, sharing.lgfedavg, sharing.fedtl),
    *(
        ditto,
        mrmtl,
        armul,
        apfl,
        scaffold,
        fedala,
        feddf,
        fedmd,
        ifca,
        moon,
        ridge,
        simultaneous,
        shot,
        randconv,
        autodial,
        kd3a,
        select_start,
    ),
    *(protonet, fedproto),
)
METHODS: Registry[Callable[..., Method]] = Registry(
    "fedtl.methods",
    {make.__name__: make for make in PLAIN}
    | {name: adaptation(term) for name, term in ADAPTATION.items()}
    | {name: between_silos(term) for name, term in {**BETWEEN_SILOS, **SOURCE_FREE}.items()}
    | {name: self_taught(term) for name, term in SELF_SUPERVISED.items()},
)
TERMS: Registry[Callable[..., Term]] = Registry(
    "fedtl.terms",
    {
        **ADAPTATION,
        **BETWEEN_SILOS,
        **SOURCE_FREE,
        **SELF_SUPERVISED,
        "soft_labels": SoftLabels,
        "randconv": RandomConvolution,
        "proximal": Proximal,
        "l2sp": StartingPoint,
    },
)
