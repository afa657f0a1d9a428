"""Imported by a process that was forked from one with all libraries: its workers are forked from it, not started anew, which saves their imports."""

import multiprocessing

import torch.multiprocessing


def _forked(method):
    assert method == "spawn"
    return multiprocessing.get_context("fork")


torch.multiprocessing.get_context = _forked
