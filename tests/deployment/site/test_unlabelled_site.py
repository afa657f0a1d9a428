"""A site that says that its labels are not used: what it may take part in, what it tells, and that they change no bit."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from fedtl.data.parts import split_rows
from fedtl.data.registry import DATA
from fedtl.deployment.coordinator.bundle import build_bundle
from fedtl.deployment.site.adopt_model import adopt_model
from fedtl.deployment.site.readiness import check_readiness
from fedtl.deployment.site.rehearse import rehearse
from fedtl.deployment.site.site_plan import SitePlan, check_policy
from fedtl.deployment.site.site_rows import load_rows
from fedtl.deployment.site.status import site_status
from fedtl.errors import DataError, Denied
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.embed import body_of, embed
from fedtl.experiment.predict import SiloModel
from fedtl.experiment.run_folder import RunFolder
from fedtl.federation.policy import Code
from fedtl.messages import Update
from tests.deployment.site.sites import PRIVATE, SETTINGS, Site, same
from tests.experiments import ROUNDS_ONLY
from tests.real_processes import Federation

ROLES = ["body", "head", "aux", "norm", "summary"]
METHODS = ["silo_mmd", "silobn", "fedtl"]
CLASSES = tuple("0123456789")
PLAN = ["method.name=silo_mmd", "data.unlabelled=['faint']", *ROUNDS_ONLY]


def site_of(folder, plan=PLAN, unlabelled=True, **more):
    folder.mkdir(exist_ok=True)
    allowed = {"policy__roles": ROLES, "policy__methods": METHODS, "data__unlabelled": unlabelled}
    return Site(folder, plan, classes=CLASSES, **(allowed | more))


def with_other_labels(monkeypatch, settings, label):
    """Give every training and validation row of "plain" the label that ``label`` makes of its own."""
    source = DATA["digits"]

    def read(given, name):
        raw = source.read(given, name)
        _, tested = split_rows(raw, settings, name, 0)
        y = label(raw.train.y)
        y[tested] = raw.train.y[tested]
        assert np.mean(y != raw.train.y) > 0.75
        return replace(raw, train=replace(raw.train, y=y))

    monkeypatch.setitem(DATA.own, "digits", replace(source, read=read))


def answers(site, folder, bundle):
    """Two rounds' updates, what the site tells of its rows, and the tensors and results of the adopted model."""
    updates = [site.ask(site.task(number)) for number in (1, 2)]
    assert all(isinstance(one, Update) for one in updates), site.lines()[-1]
    save_file(site.shared, folder / "shared.safetensors")
    adopt_model(site.home, bundle.file, folder / "shared.safetensors", "s", folder / "model")
    files = sorted((folder / "model").rglob("*.safetensors"))
    told = [check.text for check in check_readiness(site.home) if check.name == "data"]
    return updates, told, [load_file(file) for file in files], (folder / "model" / "result.json").read_text()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return build_bundle(
        tmp_path_factory.mktemp("server") / "b", "x", load_experiment("digits", [*SETTINGS, *PLAN])
    )


@pytest.mark.parametrize(
    "label", [lambda y: 9 - y, lambda y: np.full_like(y, 77)], ids=["flipped", "unknown"]
)
def test_labels_that_are_not_used_change_no_bit_of_what_leaves_or_of_the_model(
    label, bundle, tmp_path, monkeypatch
):
    first = site_of(tmp_path / "a")
    told = answers(first, tmp_path / "a", bundle)
    rows = load_rows(first.plan)
    assert (len(rows.data.train), rows.data.hidden) == (0, 40)
    assert len(rows.prepared.evaluation_set.test) > 0
    with_other_labels(monkeypatch, first.plan.experiment.data, label)
    second = site_of(tmp_path / "b")
    (second.home.path / "secret").write_bytes((first.home.path / "secret").read_bytes())
    again = answers(second, tmp_path / "b", bundle)
    for one, other in zip(told[0], again[0], strict=True):
        assert same(one.delta, other.delta)
        assert (one.weight, one.metrics) == (other.weight, other.metrics)
    assert told[1] == again[1]
    assert all(same(one, other) for one, other in zip(told[2], again[2], strict=True))
    assert told[3] == again[3]


def test_a_site_that_uses_its_labels_takes_part_in_the_same_plan(tmp_path):
    site = site_of(tmp_path, unlabelled=False)
    assert isinstance(site.ask(site.task()), Update), site.lines()[-1]
    assert len(load_rows(site.plan).data.train) == 40
    plan = load_experiment("digits", [*SETTINGS, "method.name=silo_mmd", "data.unlabelled=['plain']"])
    agreement = site.plan.agreement.model_copy(update={"experiment": plan})
    with pytest.raises(Denied, match="silo.toml uses labels"):
        check_policy(SitePlan(site.home, agreement))  # what a plan says hides no labels


def test_labels_that_were_not_used_when_it_was_signed_stay_unused(tmp_path):
    site = site_of(tmp_path)
    assert site.terms_signed().records == 0
    Federation.change(site.home.path / "silo.toml", data__unlabelled=False)
    site.refused(site.task(), Code.PLAN, "number of records")


REFUSED = {
    "method.name=silobn": ({}, "needs labels"),
    "method.name=fedtl": ({}, "stays at a site"),
    "method.name=silo_mmd": ({"policy__privacy": PRIVATE}, "labelled rows only"),
}


@pytest.mark.parametrize("method", REFUSED)
def test_what_such_a_site_cannot_take_part_in_is_denied(method, tmp_path):
    changes, says = REFUSED[method]
    site = site_of(tmp_path, unlabelled=False, plan=["data.unlabelled=['faint']", "method.name=silobn"])
    plan = SitePlan(site.home, site.plan.agreement)
    settings = load_experiment(
        "digits", [*SETTINGS, method, *(["data.unlabelled=['faint']"] if "mmd" in method else [])]
    )
    agreement = plan.agreement.model_copy(update={"experiment": settings, "dp_ready": bool(changes)})
    Federation.change(site.home.path / "silo.toml", data__unlabelled=True, **changes)
    with pytest.raises(Denied, match=says):
        check_policy(SitePlan(type(site.home).open(site.home.path), agreement))


def test_the_page_the_status_and_the_check_say_that_labels_are_not_used(bundle, tmp_path):
    site = site_of(tmp_path)
    facts, page = rehearse(site.home, bundle.file)
    assert facts.refused == ""
    assert (facts.claim.rows, facts.claim.unlabelled) == (0, 40)
    assert "40 records for training," in " ".join(page.read_text().split())
    assert "not used" in site_status(site.home).labels
    assert any("rows are not used" in one.text for one in check_readiness(site.home))


def test_a_site_without_labels_adopts_a_model_that_it_did_not_train(tmp_path):
    plan = ["method.name=silobn", *ROUNDS_ONLY]
    made = build_bundle(tmp_path / "b", "x", load_experiment("digits", [*SETTINGS, *plan]))
    site = site_of(tmp_path, plan=plan, unlabelled=False)
    Federation.change(site.home.path / "silo.toml", data__unlabelled=True)
    save_file(site.shared, tmp_path / "shared.safetensors")
    home = type(site.home).open(site.home.path)
    adopted = adopt_model(home, made.file, tmp_path / "shared.safetensors", "s", tmp_path / "model")
    assert (adopted.trained, adopted.rows, list(adopted.test)) == (False, 0, ["in use"])


def few_labels(monkeypatch, settings):
    """Take away the labels of two in three rows of "plain"."""
    source = DATA["digits"]

    def read(given, name):
        raw = source.read(given, name)
        y = raw.train.y.astype(str)
        y[np.arange(len(y)) % 3 > 0] = ""
        return replace(raw, train=replace(raw.train, y=y))

    monkeypatch.setitem(DATA.own, "digits", replace(source, read=read))


@pytest.mark.slow
def test_rows_without_a_label_take_part_where_silo_toml_says_so(bundle, tmp_path, monkeypatch):
    few_labels(monkeypatch, PLAN)
    site = site_of(tmp_path, unlabelled=False, data__missing_labels="inputs")
    assert isinstance(site.ask(site.task()), Update), site.lines()[-1]
    data = load_rows(site.plan).data
    assert (len(data.train), data.hidden, data.one_domain) == (40, 40, True)
    facts, page = rehearse(site.home, bundle.file)
    assert (facts.claim.rows, facts.claim.unlabelled) == (40, data.hidden)
    assert f" for training, and {data.hidden:,} without" in " ".join(page.read_text().split())
    assert any("which are inputs only" in one.text for one in check_readiness(site.home))
    Federation.change(site.home.path / "silo.toml", data__missing_labels="refuse")
    site.refused(site.task(2), Code.FAILED, "data.missing_labels")


@pytest.mark.slow
def test_a_plan_does_not_make_a_site_use_rows_without_a_label(tmp_path, monkeypatch):
    site = site_of(tmp_path, ["method.name=silo_mmd", 'data.missing_labels="inputs"', *ROUNDS_ONLY], False)
    assert isinstance(site.ask(site.task()), Update), site.lines()[-1]  # every row has a label
    few_labels(monkeypatch, PLAN)
    with pytest.raises(DataError, match="set data.missing_labels"):
        load_rows(site.plan)
    Federation.change(site.home.path / "silo.toml", data__missing_labels="inputs", policy__privacy=PRIVATE)
    agreement = site.plan.agreement.model_copy(update={"dp_ready": True})
    with pytest.raises(Denied, match="labelled rows only"):
        check_policy(SitePlan(type(site.home).open(site.home.path), agreement))


@pytest.mark.slow
def test_sites_without_any_label_train_a_body_together_and_adopt_it_without_a_head(tmp_path):
    silos = ["blurred", "faint", "inverted", "plain", "rotated", "textured"]
    plan = ["method.name=masked", f"data.unlabelled={silos}", *ROUNDS_ONLY]
    made = build_bundle(tmp_path / "b", "x", load_experiment("digits", [*SETTINGS, *plan]))
    site = site_of(tmp_path / "s", plan=plan, policy__methods=["masked"])
    update = site.ask(site.task())
    assert isinstance(update, Update), site.lines()[-1]
    assert not any(name.startswith("head") for name in update.delta)
    save_file(site.shared, tmp_path / "shared.safetensors")
    for study in ("s", "another"):  # a site that trained, and one that did not
        adopted = adopt_model(
            site.home, made.file, tmp_path / "shared.safetensors", study, tmp_path / f"m-{study}"
        )
        assert adopted.test["in use"].figures == {}
        model = SiloModel(RunFolder(tmp_path / f"m-{study}"), "plain")
        assert model.headless
        assert embed(body_of(model), np.zeros((4, 8, 8), np.uint8)).vectors.shape == (4, model.plan.features)
