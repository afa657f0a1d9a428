"""Tensors as plain bytes: numpy's bytes, and no shape that the bytes do not have."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtl._util.tensors import MAX_DIMENSIONS, from_raw, to_raw


@settings(deadline=None, max_examples=50)
@given(
    st.sampled_from(
        [torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool]
    ),
    st.lists(st.integers(0, 4), max_size=4),
)
def test_the_bytes_are_numpys_and_come_back(dtype, shape):
    tensor = (torch.randn(shape) * 9).to(dtype)
    content = to_raw(tensor).tobytes()
    assert content == tensor.numpy().tobytes()
    back = from_raw(bytearray(content), dtype, shape)
    assert back.dtype == dtype
    assert torch.equal(back, tensor)


def test_an_empty_part_of_rows_has_no_bytes_whatever_its_strides():
    for tensor in (torch.zeros(0, 28).expand(28, 0, 28), torch.zeros(28, 0).t(), torch.zeros(5, 28)[:0, ::2]):
        assert to_raw(tensor).tobytes() == b""
    last = torch.as_strided(torch.zeros(4), (0,), (2,))  # a view as bytes would refuse this stride
    assert to_raw(last).tobytes() == b""


def test_a_transposed_tensor_is_written_row_by_row():
    tensor = torch.arange(6.0).reshape(2, 3).t()
    assert to_raw(tensor).tobytes() == np.ascontiguousarray(tensor.numpy()).tobytes()


@pytest.mark.parametrize(
    "shape",
    [
        (2,),
        (1 << 40,),
        (-1, -1),
        (1,) * (MAX_DIMENSIONS + 1),
        (0,),
    ],
)
def test_a_shape_that_the_bytes_do_not_have_is_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        from_raw(bytearray(4), torch.float32, shape)


@pytest.mark.parametrize("shape", [(2**31 - 1,) * 3 + (0,), (2**63, 0), (0, 2**62, 4)])
def test_an_empty_tensor_whose_sizes_overflow_is_a_value_error(shape):
    """torch raises RuntimeError or TypeError for these, which a server did not expect of a reply."""
    with pytest.raises((RuntimeError, TypeError)):
        torch.empty(shape)
    with pytest.raises(ValueError, match="shape"):
        from_raw(bytearray(), torch.float32, shape)
