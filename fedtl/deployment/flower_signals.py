"""
How the process of a round ends where Flower asks it to. Flower 1.42.0 signals its own process when the process that started it was killed or its
task was given up, and does so in a thread. Only the main thread acts on a signal, and is not woken by it while it waits for another thread, such as one that asks
for a part of a message again and again: the process would stay for up to two hours.
"""

import signal
import threading


def wake_main_thread() -> None:
    """Have ``signal.raise_signal`` signal the main thread of this process, whichever thread calls it."""

    def to_main_thread(number: int) -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, number)

    signal.raise_signal = to_main_thread
