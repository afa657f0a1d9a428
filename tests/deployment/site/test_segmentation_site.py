"""Institutions that agree on a segmentation: masks stay at their sites, and a round has the bits of the simulation."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fedtl.audit.at_site import audit_site_plan
from fedtl.deployment.coordinator.bundle import build_bundle, read_agreement
from fedtl.deployment.site.adopt_model import adopt_model
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.own_rows import own_report
from fedtl.deployment.site.readiness import check_readiness
from fedtl.deployment.site.rehearse import rehearse
from fedtl.deployment.site.site_plan import SitePlan, check_policy
from fedtl.errors import ConfigError, Denied, NotEnoughSilos
from fedtl.experiment.config.known_tasks import check_deployment
from fedtl.experiment.config.load import parse_experiment
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from tests.deployment.site.studies import approve, make_site, run_study
from tests.real_processes import Federation

PIXELS = 8
BUDGET = {"epsilon": 8.0, "lifetime_epsilon": 20.0, "clip": 1.0, "statistics": "public"}
POLICY = {
    "policy__methods": ["fedavg"],
    "policy__models": ["unet"],
    "policy__metrics": ["dice", "loss"],
    "data__source": "npz",
}


def squares(seed, count=20):
    """Bright squares on a dark ground, and their masks of 0 and 1."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 90, (count, PIXELS, PIXELS)), np.zeros((count, PIXELS, PIXELS), np.uint8)
    for image, mask in zip(x, y, strict=True):
        top, left = rng.integers(0, 5, 2)
        mask[top : top + 4, left : left + 4] = 1
        image += 128 * mask
    return x.astype(np.uint8), y


def experiment(path, **others):
    return parse_experiment(
        {
            "data": {
                **{"source": "npz", "path": str(path), "task": "segmentation", "dice_loss": 0.5},
                **{"classes": ["ground", "square"], "mask_values": [0, 255]},
            },
            "model": {"name": "unet", "settings": {"width": 4, "depth": 1}},
            "method": {"name": "fedavg", "tune": {"epochs": 0}, "choose": {"candidates": ["tuned"]}},
            "train": {"batch_size": 8},
            "engine": {"name": "serial"},
            "rounds": 1,
            **others,
        }
    )


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Two sites: "a" has pictures whose masks hold 0 and 255, as in the plan, "b" an array with 0 and 1; and one folder with both."""
    folder = tmp_path_factory.mktemp("segmentation")
    (folder / "all").mkdir()
    for number, name in enumerate("ab"):
        x, y = squares(number)
        np.savez(folder / "all" / f"{name}.npz", train_x=x, train_y=255 * y)
    a = make_site(folder, "a", **{**POLICY, "data__source": "images"})
    for number, (image, mask) in enumerate(zip(*squares(0), strict=True)):
        for kind, values in (("images", image), ("masks", 255 * mask)):
            path = a.path / "data" / "a" / kind / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)
    b = make_site(folder, "b", **POLICY, data__mask_values=[0, 1])
    (b.path / "data").mkdir()
    x, y = squares(1)
    np.savez(b.path / "data" / "b.npz", train_x=x, train_y=y)
    return folder


def with_rows_of_b(places, home):
    (home.path / "data").mkdir()
    (home.path / "data" / "b.npz").write_bytes((places / "b" / "data" / "b.npz").read_bytes())
    return home


@pytest.fixture(scope="module")
def bundle(places):
    return build_bundle(places / "bundles", "squares", experiment(places / "all"))


@pytest.mark.slow
def test_a_round_has_the_bits_of_the_simulation_and_masks_stay(places, bundle):
    a, b = Home.open(places / "a"), Home.open(places / "b")
    for home in (a, b):
        (check,) = (check for check in check_readiness(home) if check.name == "data")
        assert check.text.startswith("20 images with masks"), check
        rows = own_report(home).silos[home.settings.name]
        assert sorted(rows.labels.values()) == [20, 20]  # each image has both classes
    page = approve(bundle, a, b)
    assert "ground, square" in page
    assert all(line in page for line in ("dice, loss", "head.weight"))
    last = run_study(bundle, a, b)
    folder = RunFolder.create(places / "run", experiment(places / "all"))
    run(folder.experiment(), folder)
    simulated = load_file(folder.path / "shared.safetensors")
    assert last.left_out == {}
    assert last.after.shared.keys() == simulated.keys()
    assert all(torch.equal(last.after.shared[name], simulated[name]) for name in simulated)
    (line,) = folder.history()
    for name in "ab":
        assert last.replies[name].metrics == {key: line.silos[name][key] for key in ("dice", "loss")}
    adopted = adopt_model(a, bundle.file, folder.path / "shared.safetensors", "study", places / "own")
    assert adopted.trained
    assert 0 <= adopted.test["in use"].figures["dice"] <= 1
    assert adopted.joining.metric == "dice"


@pytest.mark.slow
def test_the_policy_decides_and_metrics_that_it_does_not_name_stay(places, bundle, tmp_path):
    _, agreement = read_agreement(bundle.file.read_bytes(), "x")
    for change, said in (
        ({"policy__models": ["convnet"]}, "policy.models"),
        ({"policy__roles": ["body", "norm"]}, "policy.roles"),
        ({"data__classes": ["square", "ground"]}, "classes are ground, square"),
    ):
        home = with_rows_of_b(places, make_site(tmp_path / said, "b", **{**POLICY, **change}))
        with pytest.raises(Denied, match=said):
            check_policy(SitePlan(home, agreement))
    home = make_site(tmp_path, "b", **{**POLICY, "policy__metrics": []}, data__mask_values=[0, 1])
    with_rows_of_b(places, home)
    approve(bundle, home)
    assert run_study(bundle, home).replies["b"].metrics == {}
    Federation.change(home.path / "silo.toml", data__mask_values=[1, 0])
    with pytest.raises(NotEnoughSilos):
        run_study(bundle, home)
    assert "data.mask_values: signed 0, 1, now 1, 0" in home.record.lines()[-1].as_json()["reason"]


@pytest.mark.nightly
@pytest.mark.private
def test_a_private_site_sends_noise_and_its_own_audit_says_why_it_cannot_audit(places, tmp_path):
    plan = experiment(places / "all", privacy={"epsilon": 8.0, "sample_rate": 0.4, "steps": 2})
    bundle = build_bundle(tmp_path / "bundles", "private", plan)
    home = make_site(
        tmp_path,
        "b",
        **{**POLICY, "policy__metrics": [], "policy__share_row_count": False},
        policy__privacy=BUDGET,
        data__mask_values=[0, 1],
    )
    with_rows_of_b(places, home)
    assert "epsilon" in approve(bundle, home)
    assert run_study(bundle, home).replies["b"].weight == 1.0
    (sent,) = (line.as_json() for line in home.record.lines() if line.as_json()["what"] == "sent")
    assert sent["private"]
    with pytest.raises(ConfigError, match="silo audit works with"):
        audit_site_plan(home, bundle.hash, lambda done, total: None)


def test_what_is_defined_for_one_label_a_row_is_refused(places):
    for key in ("verdict", "transferability"):
        with pytest.raises(ConfigError, match=f"request.{key}"):
            check_deployment(experiment(places / "all", request={key: True}))


def test_a_coordinator_without_rows_declares_the_same_plan(places, bundle, tmp_path):
    declared = build_bundle(tmp_path, "squares", experiment(places / "all"), (1, PIXELS, PIXELS))
    assert declared.hash == bundle.hash
    start, other = (load_file(one.folder / "start.safetensors") for one in (bundle, declared))
    assert all(torch.equal(start[name], other[name]) for name in start)
    with pytest.raises(ConfigError, match="--classes: data.task"):
        build_bundle(tmp_path, "squares", experiment(places / "all"), (1, PIXELS, PIXELS), ("a", "b"))


def test_masks_with_other_numbers_are_named(places, bundle, tmp_path):
    # The plan says 0 and 255, and the masks hold 0 and 1.
    home = with_rows_of_b(places, make_site(tmp_path, "b", **POLICY))
    facts, _ = rehearse(home, bundle.file)
    assert "one of 0, 255 for each pixel" in facts.claim.rows_error
    assert facts.claim.terms is None
