"""How a process that trains uses its machine: its threads, and the memory that it has had before."""

import ctypes
import platform

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)
LARGEST = 1 << 25  # bytes: the most that glibc takes for the second


def set_threads(threads: int) -> None:
    """
    Before a process trains: so many threads for torch, and freed memory is kept.

    Every step frees what the next one asks for again. By default glibc gives large blocks back at once, and the
    system fills each anew with zeros, page by page: a plain step of the convnet took twice its time so, and a
    private one a quarter more. Other libraries of C have settings of their own and are left alone.
    """
    torch.set_num_threads(threads)
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(TRIM_THRESHOLD, 2**31 - 1)
        library.mallopt(MMAP_THRESHOLD, LARGEST)
