"""Models on series: torch's own GRU by the same weights, and private gradients that autograd gives too."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedtl.errors import ModelError
from fedtl.models.registry import model_spec, with_private_norms
from fedtl.models.sequences import gru
from fedtl.privacy.per_sample.clipping import by_row, choose_gradient_method, clipped

ROWS = torch.arange(6)


def test_the_gru_is_that_of_torch():
    module, _ = gru((3, 11), width=8)
    own = module.features[0]
    of_torch = nn.GRU(3, 8, batch_first=True)
    names = {"ih": own.input, "hh": own.state}
    of_torch.load_state_dict(
        {
            f"{kind}_{name}_l0": layer.state_dict()[kind]
            for name, layer in names.items()
            for kind in layer.state_dict()
        }
    )
    x = torch.randn(5, 3, 11)
    with torch.no_grad():
        assert torch.allclose(own(x), of_torch(x.transpose(1, 2))[0].mean(1), atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_traced_gru_takes_any_number_of_rows():
    net = model_spec("gru", (3, 5), 0).net(4).eval()
    x = torch.randn(6, 3, 5)
    with torch.no_grad():
        traced = torch.jit.trace(net, x[:2])
        assert torch.allclose(traced(x), net(x), atol=1e-6)


@pytest.mark.parametrize("name", ["convnet1d", "gru"])
def test_a_row_is_clipped_by_its_own_gradient(name):
    net = with_private_norms(model_spec(name, (3, 12), 0)).net(4).train()
    x, y = torch.randn(6, 3, 12, generator=torch.Generator().manual_seed(0)), ROWS % 4

    def losses(net, rows):
        return F.cross_entropy(net(x[rows]), y[rows], reduction="none")

    chosen = choose_gradient_method(net, ROWS, losses, 0.5)
    found, wanted = (clipped(method, net, ROWS, losses, 0.5) for method in (chosen, by_row))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, wanted, strict=True))


def test_a_series_too_short_for_two_poolings_is_refused():
    with pytest.raises(ModelError, match="4 steps"):
        model_spec("convnet1d", (2, 3), 0)
    assert model_spec("gru", (2, 1), 0).net(3).eval()(torch.randn(4, 2, 1)).shape == (4, 3)
