"""The settings of what each silo does after the last round, on its own rows."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from fedtl._util.settings import Settings
from fedtl.methods.candidate import Candidate


def each_once(values: list[Candidate]) -> list[Candidate]:
    """Return the values if each stands in the list once."""
    if len(set(values)) < len(values):
        raise ValueError("a list in which each name stands once")
    return values


class TuneSettings(Settings):
    """
    ``[method.tune]``: training at each silo after the last round, on its own rows, with a falling learning rate. ``what``:
    "all", the "head", or the scale and statistics of "norm" layers. ``epochs``: at most; 0: none. ``lr``: of the first epoch;
    "auto": half of train.lr. ``ridge_head``: first fit the head in closed form, if that lowers the loss on validation rows.
    ``unfreeze``: "gradual" trains the head in the first epoch, and one more stage of the body in each that follows.
    ``generations``: that often tune again, with the model before it as a teacher (born-again networks).
    The silo's validation rows decide how many epochs, and which generation, it keeps.
    """

    what: Literal["all", "head", "norm"] = "all"
    epochs: int = Field(10, ge=0)
    lr: Literal["auto"] | Annotated[float, Field(gt=0, allow_inf_nan=False)] = "auto"
    schedule: Literal["cosine", "constant"] = "cosine"
    ridge_head: bool = True
    unfreeze: Literal["at once", "gradual"] = "at once"
    generations: int = Field(0, ge=0, le=20)


Candidates = Annotated[list[Annotated[Candidate, Field(strict=False)]], AfterValidator(each_once)]


class ChooseSettings(Settings):
    """
    ``[method.choose]``: which models a silo averages after the last round: its "own", trained alone for the epochs of a run, the
    "shared" one, the "personal" one of methods that keep one, and the "tuned" one. The weights are equal unless its
    validation rows clearly say otherwise. ["tuned"]: no mix. "interpolated": one model between the weights of the two ``ends``,
    at the share that is best on validation rows; ``by``: one share for the "whole" model, or one for each "stage".
    """

    candidates: Candidates = Field([Candidate.OWN, Candidate.SHARED, Candidate.TUNED], min_length=1)
    ends: Candidates = Field([Candidate.SHARED, Candidate.TUNED], min_length=2, max_length=2)
    by: Literal["whole", "stage"] = "whole"
