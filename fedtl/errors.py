"""
The errors that fedtl raises, and the exit code of a command that ends with one:

FedTLError                1   an error in fedtl, unless a subclass says otherwise
  UserError               2   the experiment, the data or the command line is wrong; nothing was trained
    ConfigError           2   the experiment cannot be run as written
    DataError             2   a silo's data cannot be used
      ConstantsError      2   a file of scaling constants cannot be used; it ends a site's rehearsal with 3
    ModelError            2   a model, or weights for it, cannot be built
  PartitionError          1   a state does not have exactly the expected names
  SiloFailed              1   one silo could not complete its part of a round
    RoundLost             1   a private round was charged but its reply was lost; it is never computed again
  Refused                 3   refused by policy or budget
    BudgetExhausted       3   a private round would exceed the privacy budget of the data
    LedgerDamaged         3   the ledger was changed or cannot be read
    Denied                3   a site's policy forbids it; has the code that the server may see
  NotEnoughSilos          4   a run ended because too few silos gave a valid reply
  Refuted                 5   an audit refuted a claim, or a bundle differs from what was signed

A message is one line. It names what is wrong, where, the number, and what to do.
"""


class FedTLError(Exception):
    """The base class of all errors that fedtl raises itself."""

    exit_code = 1


class UserError(FedTLError):
    """An error that the user can correct."""

    exit_code = 2


class ConfigError(UserError):
    """The experiment cannot be run as written. Nothing was started."""


class DataError(UserError):
    """A silo's data cannot be used."""


class ConstantsError(DataError):
    """A file of scaling constants cannot be read, or lacks a number of a column or channel."""


class ModelError(UserError):
    """A model, or weights for it, cannot be built."""


class PartitionError(FedTLError):
    """A state does not have exactly the expected names."""


class SiloFailed(FedTLError):
    """One silo could not complete its part of a round. The other silos continue."""


class RoundLost(SiloFailed):
    """A private round was charged, but its reply was lost. It is not computed again: that would be a second release."""


class Refused(FedTLError):
    """A policy or a privacy budget does not allow it."""

    exit_code = 3


class BudgetExhausted(Refused):
    """A private round would exceed the privacy budget of the data. Nothing was trained."""


class LedgerDamaged(Refused):
    """The ledger was changed or cannot be read, so no budget can be computed from it."""


class Denied(Refused):
    """A site's policy forbids it. The server sees only ``code``; the message is for the site."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class NotEnoughSilos(FedTLError):
    """
    Fewer silos than ``minimum_silos`` gave a valid reply. ``unused``: those whose valid updates are not used for that. ``later``:
    whether there would be enough with the silos that do not train at this time of the day.
    """

    exit_code = 4

    def __init__(self, text: str, unused: tuple[str, ...] = (), later: bool = False) -> None:
        super().__init__(text)
        self.unused, self.later = unused, later


class Refuted(FedTLError):
    """An audit refuted a claim, or a bundle differs from what was signed."""

    exit_code = 5


def first_line(error: Exception) -> str:
    """Return what an error of a library says in its first line, for a message; the name of its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
