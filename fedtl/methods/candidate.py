"""The names of the models that a silo may use; settings name them, and are read without torch."""

from enum import StrEnum


class Candidate(StrEnum):
    """A model that a silo may use after the last round."""

    OWN = "own"  # trained alone, for the same number of epochs and with the same tuning
    SHARED = "shared"  # as the rounds left it
    PERSONAL = "personal"  # a further model that the method keeps at the silo
    TUNED = "tuned"  # what the finishing steps made of the model
    INTERPOLATED = "interpolated"  # between the weights of two of the others
