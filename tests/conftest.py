"""What every test file may use: one thread, so that bits repeat, and the real data where it is at hand."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

DATA = Path(os.environ.get("FEDTL_DATA") or Path(__file__).resolve().parents[1].parent / "shared" / "data")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Bits repeat, and tests that run side by side do not slow each other down."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """The folder of a real data set by its name; where it is absent the test is skipped, and says which it was."""

    def folder(name: str) -> Path:
        path = DATA / name
        if not path.is_dir():
            pytest.skip(f"no data set {name!r} under {DATA}; set FEDTL_DATA")
        return path

    return folder
