"""Values in files that several processes map."""

import fcntl

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtl.messages import Task
from fedtl.simulation.mapped_pickle import read_mapped, write_mapped
from fedtl.simulation.shared_store import SharedStore, temporary_store
from fedtl.simulation.temp_folder import temporary_folder


def test_a_temporary_folder_is_private_and_removed(tmp_path):
    with temporary_folder(str(tmp_path)) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "file").write_text("x")
        with open(folder / ".lock") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not list(tmp_path.iterdir())


DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)), max_size=5),
    st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text() | st.floats(allow_nan=False), max_size=4),
)  # fmt: skip
def test_a_mapped_file_holds_the_value_written(tmp_path_factory, kinds, plain):
    path = tmp_path_factory.mktemp("values") / "file"
    tensors = [(torch.randn(shape) * 9).to(dtype) for dtype, shape in kinds]
    write_mapped(path, (plain, tensors, np.arange(5)[::2], np.array(["a", "bc"])))
    same, back, numbers, words = read_mapped(path)
    assert same == plain
    assert numbers.tolist() == [0, 2, 4]
    assert words.tolist() == ["a", "bc"]
    for tensor, other in zip(tensors, back, strict=True):
        assert (other.dtype, other.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(other, tensor)


def test_a_mapped_file_is_private_and_copied_on_write(tmp_path):
    path = tmp_path / "file"
    write_mapped(path, Task("study", 1, 1, 0, {"w": torch.arange(6.0).reshape(2, 3).t()}))
    assert path.stat().st_mode & 0o777 == 0o600
    one, other = read_mapped(path), read_mapped(path)
    path.unlink()
    one.shared["w"].add_(1)
    assert torch.equal(other.shared["w"], torch.arange(6.0).reshape(2, 3).t())
    assert torch.equal(one.shared["w"], other.shared["w"] + 1)


def test_a_store_makes_a_value_once():
    made = []
    with temporary_store() as store:
        for _ in range(3):
            value = store.get_or_make("a", lambda: made.append(1) or torch.ones(2))
        assert made == [1]
        assert value.tolist() == [1, 1]
        again = SharedStore(store.folder)
        assert again.has("a")
        again.remove("a")
        assert not store.has("a")
        assert value.tolist() == [1, 1]
