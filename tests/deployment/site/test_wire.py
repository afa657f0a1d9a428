"""A site sends compressed updates only where its policy allows it, and its record has what was sent."""

import pytest
import torch

from fedtl.deployment.site.egress_lines import parse_lines
from fedtl.deployment.site.egress_log import tensor_hash
from fedtl.deployment.site.rehearse import rehearse
from fedtl.deployment.site.uncovered import uncovered_lines
from fedtl.errors import Denied
from fedtl.federation.policy import Code
from fedtl.methods.sets import RESIDUAL
from fedtl.models.state import size_in_bytes
from fedtl.training.trainer import Trainer
from tests.deployment.site.sites import PRIVATE, Site, same

ALLOWED = {"policy__wire": ["float32", "int8", "sign"]}


@pytest.mark.parametrize("dtype", ["int8", "sign"])
def test_manifest_record_and_state_have_what_is_sent(dtype, tmp_path):
    site = Site(tmp_path, [f"wire.dtype={dtype}"], **ALLOWED)
    study = site.study()
    silo = site.silo(study)
    for number in (1, 2):  # as a trainer that was never stopped, residual included
        there = study.trainer.fit(silo, site.task(number))
        here = site.ask(site.task(number))
        assert same(here.delta, there.delta)
    assert any(name.startswith(RESIDUAL) and one.any() for name, one in silo.local.items())
    assert same(site.ask(site.task(2)).delta, here.delta)  # the stored reply
    sent = [line for line in site.lines() if line["what"] == "sent"][1]
    assert sent["tensors"].keys() == here.delta.keys()
    for name, tensor in here.delta.items():
        row = sent["tensors"][name]
        assert row["sha256"] == tensor_hash(tensor)
        assert row["dtype"] == str(tensor.dtype).removeprefix("torch.")
    assert sent["bytes"] == size_in_bytes(here.delta) == site.plan.manifest.bytes
    assert sent["bytes"] < size_in_bytes(site.shared) / 3
    assert uncovered_lines(parse_lines(site.lines())) == []
    in_full = {
        **sent["tensors"]["body.features.0.weight" if dtype == "int8" else "signs/body.features.0.weight"]
    }
    sent["tensors"] = {**sent["tensors"], "body.features.0.weight": {**in_full, "dtype": "float32"}}
    (problem,) = uncovered_lines(parse_lines([*site.lines()[:-1], sent]))[:1]
    assert "not on the approved manifest" in problem


def test_a_form_that_the_policy_does_not_list_is_refused(tmp_path):
    with pytest.raises(Denied, match="policy.wire allows float32"):
        Site(tmp_path, ["wire.dtype=int8"])


def test_the_norm_is_that_of_what_the_server_reads(tmp_path):
    site = Site(tmp_path, ["wire.dtype=int8"], **ALLOWED, policy__max_update_norm=100.0)
    update = site.ask(site.task())
    codes = torch.cat([one.flatten().double() for one in update.delta.values()])
    assert codes.norm() > 1000  # of the multiples that were sent
    small = Site(tmp_path / "small", ["wire.dtype=int8"], **ALLOWED, policy__max_update_norm=1e-3)
    small.refused(small.task(), Code.DECLINED, "policy.max_update_norm")


def test_an_update_in_full_does_not_leave_where_the_plan_compresses(tmp_path, monkeypatch):
    site = Site(tmp_path, ["wire.dtype=int8"], **ALLOWED)
    fit = Trainer.fit

    def in_full(trainer, silo, task):
        object.__setattr__(trainer, "encoding", type(trainer.encoding)())
        return fit(trainer, silo, task)

    monkeypatch.setattr(Trainer, "fit", in_full)
    site.refused(site.task(), Code.TENSORS, "manifest")


def test_a_private_site_compresses_its_noisy_update(tmp_path):
    site = Site(
        tmp_path, ["wire.dtype=sign"], dp_ready=True, **ALLOWED,
        policy__privacy=PRIVATE, policy__metrics=[], policy__share_row_count=False, data__scale="none",
    )  # fmt: skip
    update = site.ask(site.task())
    assert update.delta["signs/body.features.0.weight"].dtype == torch.uint8
    assert site.lines()[-1]["private"] is True
    assert uncovered_lines(parse_lines(site.lines())) == []


def test_the_rehearsal_shows_how_weights_are_sent_and_that_the_residual_stays(tmp_path):
    site = Site(tmp_path, ["wire.dtype=int8"], **ALLOWED)
    plan = tmp_path / "exp.toml"
    plan.write_text(
        'rounds = 4\nminimum_silos = 2\n[data]\nsource = "digits"\nlimit = 40\n[wire]\ndtype = "int8"\n'
    )
    facts, page = rehearse(site.home, plan)
    assert not facts.refused
    leaves, stays = page.read_text().split("STAYS")
    assert "weights are sent as" in leaves
    assert "scale/body.features.0.weight" in leaves
    assert f"{RESIDUAL}/body.features.0.weight" in stays
    assert f"{site.plan.manifest.bytes:,} bytes" in leaves
