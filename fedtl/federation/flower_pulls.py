"""How soon and for how long Flower asks again for a part of a message that is still on its way. Needs no torch, since idle processes of a site use it."""

from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree, pull_objects

FIRST_WAIT, LONGEST_WAIT = 0.1, 1.0  # seconds; Flower waits 1, then twice as long each time, up to 10
TRIES = None  # without a limit: Flower gives up after two hours in any case


def ask_again_soon() -> None:
    """Shorten the waits in this process: a message is announced before its parts are there, so nearly every one is asked for too early."""
    waits = {"initial_backoff": FIRST_WAIT, "backoff_cap": LONGEST_WAIT, "max_tries_per_object": TRIES}
    for function in (pull_objects, pull_and_inflate_object_from_tree):
        function.__kwdefaults__ = {**(function.__kwdefaults__ or {}), **waits}


def give_up_after(seconds: float) -> None:
    """
    Make each later pull stop waiting for the missing parts of a message after this many ``seconds``. Without this, Flower waits until
    the sender's push session ends, three minutes after the message was announced.
    """
    pull_objects.__kwdefaults__ = {**(pull_objects.__kwdefaults__ or {}), "max_time": seconds}
