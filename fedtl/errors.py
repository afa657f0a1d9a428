"""
What can go wrong, from the general to the particular, and the exit code a command ends with:

FedTLError                1   our mistake, unless a child says otherwise
  UserError               2   something in the experiment, the data or the command line; nothing was trained
    ConfigError           2   the experiment cannot be run as written
    DataError             2   a silo's data cannot be used as it is
    ModelError            2   a model or its weights cannot be built as asked
  PartitionError          1   a state does not have exactly the names it should have
  SiloFailed              1   one silo could not do its part of a round
    RoundLost             1   a private round that was charged and has no reply; it is never computed again
  Refused                 3   refused by policy or budget
    BudgetExhausted       3   a private round would exceed what may ever be spent on the data
    LedgerDamaged         3   the ledger is not as it was written
    Denied                3   an institution's policy forbids it; carries the one word that the server may see
  NotEnoughSilos          4   a run ended because too few silos gave a valid reply
  Refuted                 5   an audit refuted a claim, or what it says is not what was signed

Every message names the thing, the number and the way out, in one line.
"""


class FedTLError(Exception):
    """Anything fedtl itself finds wrong."""

    exit_code = 1


class UserError(FedTLError):
    """Something that the person at the keyboard can put right."""

    exit_code = 2


class ConfigError(UserError):
    """The experiment cannot be run as written; nothing has started."""


class DataError(UserError):
    """A silo's data cannot be used as it is."""


class ModelError(UserError):
    """A model, or the weights for it, cannot be built as asked."""


class PartitionError(FedTLError):
    """A state does not have exactly the names it should have."""


class SiloFailed(FedTLError):
    """One silo could not do its part of a round; the others may go on."""


class RoundLost(SiloFailed):
    """A private round was charged, and its reply was never kept; computed again it would be a second release."""


class Refused(FedTLError):
    """An institution's own rules do not allow it."""

    exit_code = 3


class BudgetExhausted(Refused):
    """A private round would exceed what may ever be spent on the data; nothing was trained."""


class LedgerDamaged(Refused):
    """The ledger is not as it was written, so it cannot vouch for anything."""


class Denied(Refused):
    """An institution's policy forbids it. ``code`` is all that the server is told; the text is for the steward."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class NotEnoughSilos(FedTLError):
    """Fewer valid replies than ``minimum_silos``."""

    exit_code = 4


class Refuted(FedTLError):
    """An audit refuted a claim, or its bundle is not what was signed."""

    exit_code = 5
