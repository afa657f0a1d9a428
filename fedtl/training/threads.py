"""The number of threads of a process that trains, and how its freed memory is reused."""

import ctypes
import platform

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
MAX_MMAP_THRESHOLD = 1 << 25  # bytes: the largest that glibc accepts


def set_threads(threads: int) -> None:
    """
    Set torch's number of threads, and keep freed memory in the process. Call this before training.

    Every step frees memory that the next one needs. By default glibc returns large blocks to the system, which clears each
    page again: a plain step of the convnet took twice the time, a private one a quarter more. Other C libraries have other
    settings and are not changed.
    """
    torch.set_num_threads(threads)
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(TRIM_THRESHOLD, 2**31 - 1)
        library.mallopt(MMAP_THRESHOLD, MAX_MMAP_THRESHOLD)
