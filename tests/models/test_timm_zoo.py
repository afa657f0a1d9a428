"""timm's architectures: cut at their classifier, with scores and a role for each tensor, or the reason in one line."""

import pytest

from fedtl.models.libraries import import_timm
from tests.models.timm_zoo import CUT, families, outcome, size_of

# One small architecture of families that differ in their classifier, their norms or how their inputs are given.
SAMPLE = (
    *(
        "test_byobnet",
        "test_convnext",
        "test_efficientnet",
        "test_mambaout",
        "test_nfnet",
        "test_resnet",
        "test_vit",
    ),
    "mobilenetv3_small_050",
)
REFUSED = {
    "efficientformerv2_s0": "no single classifier",
    "cpubone_nano": "LinearLayer",
    "efficientvim_m1": "Identity",
}


@pytest.mark.parametrize("name", SAMPLE)
def test_a_small_architecture_is_cut(name):
    assert outcome(name) == CUT


@pytest.mark.parametrize("name", REFUSED)
def test_one_that_cannot_be_cut_is_refused_with_its_reason(name):
    assert REFUSED[name] in outcome(name)


def test_what_timm_refuses_to_build_is_refused_in_one_line(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("64 is not a multiple of 14\nof the patches")

    monkeypatch.setattr(import_timm(), "create_model", refuse)
    refused = outcome("test_vit")
    assert " of shape (3, 64, 64): 64 is not a multiple of 14;" in refused
    assert "\n" not in refused


@pytest.mark.nightly
def test_every_architecture_is_cut_or_refused_with_a_reason():
    """An error of another kind fails the test. Those of 100 million parameters and more need gigabytes, and are not tried."""
    for names in families().values():
        for name in names:
            if (size_of(name) or 0) < 100e6:
                assert outcome(name), name
