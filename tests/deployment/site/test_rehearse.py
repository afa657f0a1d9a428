"""The rehearsal's page lists exactly what leaves, and only a rehearsed bundle can be approved."""

import json
import math
import re
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from fedtl.data.settings import DataSettings
from fedtl.deployment.coordinator.bundle import build_bundle, read_agreement
from fedtl.deployment.plan import agreement_file
from fedtl.deployment.site.approvals import read_approvals
from fedtl.deployment.site.approve import approve_bundle
from fedtl.deployment.site.egress_lines import PlanApproved
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.readiness import check_readiness
from fedtl.deployment.site.rehearsal import Rehearsal
from fedtl.deployment.site.rehearse import read_requested_plan, rehearse
from fedtl.deployment.site.signed import SignedTerms
from fedtl.deployment.site.site_plan import SitePlan, build_study
from fedtl.deployment.site.site_rows import load_rows
from fedtl.deployment.site.site_silo import make_silo
from fedtl.errors import ConfigError, Denied, Refused
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.config.schema import RequestSettings
from fedtl.federation.policy import Code
from fedtl.report.wording import not_covered
from tests.real_processes import Federation, fedtl_command

PRIVATE = {"epsilon": 3.0, "lifetime_epsilon": 10.0, "clip": 1.0, "statistics": "public"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("server")
    settings = load_experiment("digits", ["minimum_silos=3", "rounds=20"])
    return build_bundle(place / "bundles", "digits", settings, dp_ready=True)


@pytest.fixture
def home(tmp_path):
    Home.create(tmp_path / "home", "plain", "fl.example.org:8443")
    given = {"data__source": "digits", "data__path": "", "policy__privacy": PRIVATE}
    Federation.change(tmp_path / "home" / "silo.toml", **given)
    return Home.open(tmp_path / "home")


def test_the_page_lists_every_tensor_once_as_leaving_or_staying(home, made):
    facts, page = rehearse(home, made.file)
    text, html = page.read_text(), page.with_suffix(".html").read_text()
    leaves, stays = text.split("STAYS")
    _, its = read_agreement(made.file.read_bytes(), "x")
    plan = SitePlan(home, its)
    roles = plan.dry_study.trainer.partition.roles
    for name, role in roles.items():
        part = leaves if role in ("body", "norm", "aux") else stays
        assert len(re.findall(rf"^{re.escape(name)} +{role} ", part, re.M)) == 1, name
        assert html.count(f'<th scope="row">{name}</th>') == 1
    said = " ".join(text.split())
    assert f"{plan.manifest.bytes:,} bytes a round" in said
    assert f"20 rounds of 1 study, {20 * plan.manifest.bytes:,} bytes" in said
    for digest in (made.hash, its.hash, plan.manifest.hash, facts.request.code):
        assert digest in text
        assert digest in html
    assert "(epsilon 3.00, delta 1e-05" in said
    for page_ in (text, html):
        assert "zero-out of one record" in " ".join(page_.split())
        assert re.search(r"tuning on private data\W+(t[hd]\W+)*undeclared", page_)
    assert facts.claim.privacy.lifetime_epsilon == 10.0
    assert len(text.splitlines()) < 130
    assert text.splitlines().index("AUDIT ON YOUR OWN DATA") < 40  # one screen for whoever has to decide


def test_a_rehearsal_is_read_back_from_its_file_as_it_was_written(home, made):
    facts, page = rehearse(home, made.file)
    content = json.loads(page.with_suffix(".json").read_text())
    assert Rehearsal.from_json(content).to_json() == content == json.loads(json.dumps(facts.to_json()))
    assert (content["plan"], content["norm"], content["bytes"]) == (
        facts.request.plan,
        1000.0,
        facts.tensors.manifest.bytes,
    )


def test_a_rehearsal_charges_nothing_and_stores_no_state(home, made):
    rehearse(home, made.file)
    assert not home.ledger.exists()
    assert not (home.path / "state").exists()
    assert read_approvals(home.approved) == []


def test_only_a_rehearsed_bundle_can_be_approved(home, made, monkeypatch):
    with pytest.raises(ConfigError, match="fedtl silo rehearse"):
        approve_bundle(home, made.hash)
    with pytest.raises(ConfigError, match="64 characters"):
        approve_bundle(home, "../../etc/passwd")
    rehearse(home, made.file)
    with monkeypatch.context() as changed:
        changed.setattr("fedtl.deployment.site.approve.code_hash", lambda: "f" * 64)
        with pytest.raises(ConfigError, match="fedtl was changed"):
            approve_bundle(home, made.hash)
    one = approve_bundle(home, made.hash)
    assert read_approvals(home.approved) == [one]
    assert isinstance(home.record.lines()[-1].entry, PlanApproved)


def test_a_refused_plan_is_marked_on_the_page_and_cannot_be_approved(home, made):
    Federation.change(home.path / "silo.toml", policy__roles=["body"])
    home = Home.open(home.path)
    _, page = rehearse(home, made.file)
    assert "policy: body.features.1.affine" in page.read_text().replace("\n ", "")
    with pytest.raises(Denied, match="body.features.1.affine"):
        approve_bundle(home, made.hash)
    fedtl_command("silo", "rehearse", home.path, made.file, code=3)


def test_the_page_warns_where_there_is_no_privacy(home, made):
    Federation.change(home.path / "silo.toml", policy__privacy=None)
    _, page = rehearse(Home.open(home.path), made.file)
    assert "WITHOUT differential privacy" in page.read_text()
    assert "noisy" not in page.read_text()
    assert "tuning" not in page.read_text()  # of nothing that is claimed


@pytest.mark.parametrize("figures", [[], ["accuracy"]])
def test_the_page_lists_the_metrics_of_a_private_plan_that_the_policy_allows(home, tmp_path, figures):
    path = tmp_path / "told.toml"
    path.write_text('minimum_silos = 3\n[privacy]\nepsilon = 2.0\nmetrics = ["accuracy"]\n')
    Federation.change(home.path / "silo.toml", policy__metrics=[*figures, "auc"])
    facts, page = rehearse(Home.open(home.path), path)
    assert facts.plan.metrics == figures
    assert re.search(rf"^results that leave +{', '.join(figures) or 'none'}$", page.read_text(), re.M)
    assert (facts.claim.privacy.metric_noise is not None) == bool(figures)


def test_a_private_plan_at_a_site_without_a_budget_says_what_to_write(home, tmp_path):
    path = tmp_path / "asked.toml"
    path.write_text("minimum_silos = 3\n[privacy]\nepsilon = 2.0\n")
    Federation.change(home.path / "silo.toml", policy__privacy=None)
    said = " ".join(fedtl_command("silo", "rehearse", home.path, path, code=3).stdout.split())
    assert "[policy.privacy] epsilon = 3.0" in said


def test_an_experiment_is_rehearsed_on_the_sites_rows(home, tmp_path):
    """The data that the experiment names is not at this site."""
    path = tmp_path / "hospitals.toml"
    path.write_text(
        'minimum_silos = 3\n[data]\nsource = "table"\npath = "not/here"\n[privacy]\nepsilon = 2.0\ntuning = "public"\n'
    )
    facts, page = rehearse(home, path)
    assert facts.request.bundle == ""
    assert facts.plan.shape == [1, 8, 8]
    assert re.search(r"^epsilon +2\.00$", page.read_text(), re.M)
    assert facts.claim.tuning == "public"


@pytest.mark.parametrize(
    "asked",
    [
        {"experiment": "digits", "study": "s", "epsilon": 100.0},
        {"experiment": "../digits"},
        {"experiment": "other"},
        {"experiment": 3},
        {"study": "s"},
    ],
)
def test_a_run_may_only_name_an_experiment_of_the_bundle(made, asked):
    app = made.folder / "app"
    assert agreement_file(app, {"experiment": "digits", "study": "s"}).is_file()
    with pytest.raises(Denied) as caught:
        agreement_file(app, asked)
    assert caught.value.code == Code.PLAN


def test_a_dry_run_with_another_tensor_is_refused(home, made, monkeypatch):
    from dataclasses import replace

    from fedtl.training.trainer import Trainer

    fit = Trainer.fit
    monkeypatch.setattr(
        Trainer,
        "fit",
        lambda *words: replace(u := fit(*words), delta={**u.delta, "head.bias": torch.zeros(2)}),
    )
    facts, _ = rehearse(home, made.file)
    assert "'head.bias'" in facts.refused


def test_a_site_can_protect_patients_instead_of_records(tmp_path):
    """A table whose rows belong to patients, from silo.toml to the page and to a round."""
    rng = np.random.default_rng(0)
    Home.create(tmp_path / "home", "clinic", "fl.example.org:8443")
    (tmp_path / "home" / "data").mkdir()
    table = {"patient": [f"p{at % 30}" for at in range(120)], "a": rng.normal(size=120)}
    table |= {"b": rng.normal(size=120), "label": [at % 2 for at in range(120)]}
    pd.DataFrame(table).to_csv(tmp_path / "home" / "data" / "clinic.csv", index=False)
    private = {**PRIVATE, "unit": "patient"}
    given = {
        "data__path": "data",
        "data__scale": "none",
        "policy__privacy": private,
        "policy__minimum_silos": 1,
    }
    Federation.change(tmp_path / "home" / "silo.toml", **given)
    home = Home.open(tmp_path / "home")
    plan = tmp_path / "plan.toml"
    plan.write_text(
        "rounds = 2\n[data]\nsource = 'table'\npath = 'home/data'\nscale = 'none'\ncolumns = ['a', 'b']\nclasses = ['0', '1']\n"
        "[model]\nname = 'mlp'\n[privacy]\nepsilon = 3.0\n"
    )
    facts, page = rehearse(home, plan)
    assert facts.refused == "", facts.refused
    said = " ".join(page.read_text().split())
    assert "privacy for every patient" in said
    assert not_covered("patient") in said
    assert not_covered("record") not in said
    assert facts.claim.privacy.units < 30
    assert f"{facts.claim.privacy.units} patients with {facts.claim.rows} records" in said
    assert f"number of patients ({facts.claim.privacy.units})" in said
    assert "patient" not in {line.name for line in facts.tensors.manifest.lines}


# What a lawyer reads


def said(page):
    return " ".join(page.read_text().split())


def test_the_page_says_who_asks_for_what_and_what_one_record_risks(home, tmp_path):
    path = tmp_path / "asked.toml"
    path.write_text(
        'minimum_silos = 3\n[request]\nby = "Group <b>A</b>"\npurpose = "To predict readmission."\n[privacy]\nepsilon = 2.0\n'
    )
    facts, page = rehearse(home, path, 2)
    text = said(page)
    assert "Who asks Group <b>A</b> (" in text
    assert "purpose To predict readmission." in text
    assert "20 rounds of 2 studies" in text
    assert f"after {facts.request.until} (UTC)" in text
    both = math.exp(2 * facts.claim.privacy.epsilon) * 0.01 + 2 * facts.claim.privacy.delta
    (shown,) = re.findall(r"recognises at most ([0-9.]+) %", text)
    assert 0 <= float(shown) - 100 * both < 0.1
    assert "(All 2 studies together.)" in text
    html = page.with_suffix(".html").read_text()
    assert "Group &lt;b&gt;A&lt;/b&gt;" in html
    assert "<b>A</b>" not in html


def test_the_page_says_not_stated_where_the_request_is_empty(home, made):
    text = said(rehearse(home, made.file)[1])
    assert "Who asks Not stated (" in text
    assert "purpose Not stated." in text


@pytest.mark.parametrize("value", ["a\nREFUSED", "a\u202eb", "x" * 401])
def test_what_a_coordinator_writes_cannot_look_like_another_line_of_the_page(value):
    with pytest.raises(ValidationError):
        RequestSettings(purpose=value)
    with pytest.raises(ValidationError):
        DataSettings(columns=[value[:20] if len(value) > 400 else value, "\n"])


def test_the_page_explains_its_terms(home, made):
    _, page = rehearse(home, made.file)
    for text in (page.read_text(), page.with_suffix(".html").read_text()):
        text = " ".join(re.sub(r"<[^>]*>|&#39;", " ", text).split())
        for meaning in (
            "delta 1e-05 and, beyond this factor, by at most this probability",
            "one record can contribute to a step",
            "as a multiple of the clip",
            "contribution of one record is 0",
            "A tensor is one array",
            "head: the last layer",
        ):
            assert meaning in text, meaning


def test_the_page_shows_the_lines_of_an_audit(home, made):
    _, page = rehearse(home, made.file)
    assert f"fedtl silo audit {home.path}" in said(page)
    found = page.with_suffix(".audit.json")
    assert found.name == f"{made.hash}.audit.json"
    found.write_text('{"text": ["claimed 3.00, measured at least 0.41", "a\\u001b[2Jb"]}')
    _, page = rehearse(home, made.file)
    assert "claimed 3.00, measured at least 0.41 a [2Jb IN DETAIL" in said(page)
    assert "silo audit" not in said(page)
    assert "measured at least 0.41" in page.with_suffix(".html").read_text()


def test_the_days_and_studies_of_an_approval_are_as_rehearsed(home, made):
    until = (datetime.now(UTC).date() + timedelta(days=3)).isoformat()
    fedtl_command("silo", "rehearse", home.path, made.file, "--studies", 3, "--until", until)
    said = fedtl_command("silo", "approve", home.path, made.hash).stderr
    assert f"for 3 studies until {until}; begun: none" in said
    signed = home.record.lines()[-1].entry.signed
    assert (signed["studies"], signed["until"]) == (3, until)
    assert home.record.lines()[-1].entry.terms == SignedTerms.model_validate(signed).hash
    for words in (["--until", "2020-01-01"], ["--until", "soon"], ["--studies", 0]):
        assert (
            "error" in fedtl_command("silo", "rehearse", home.path, made.file, *words, code=2).stderr.lower()
        )
    assert (
        rehearse(home, made.file)[0].request.until
        == (datetime.now(UTC).date() + timedelta(days=90)).isoformat()
    )


def test_an_approval_signs_the_page_not_a_later_silo_toml(home, made):
    rehearse(home, made.file)
    Federation.change(home.path / "silo.toml", policy__privacy=None, policy__share_row_count=True)
    one = approve_bundle(Home.open(home.path), made.hash)
    signed = home.record.lines()[-1].entry.signed
    assert signed["privacy"]["epsilon"] == 3.0
    assert signed["rows"] is False
    assert one.terms == SignedTerms.model_validate(signed).hash


def clinic(folder, plan_classes, method="fedtl", **given):
    """A private site with a table of its own, and a plan that declares these classes."""
    rng = np.random.default_rng(0)
    Home.create(folder / "home", "clinic", "fl.example.org:8443")
    (folder / "home" / "data").mkdir()
    table = {"a": rng.normal(size=120), "b": rng.normal(size=120), "label": np.arange(120) % 2}
    pd.DataFrame(table).to_csv(folder / "home" / "data" / "clinic.csv", index=False)
    fixed = {"data__path": "data", "policy__privacy": PRIVATE, "policy__minimum_silos": 1}
    Federation.change(folder / "home" / "silo.toml", **fixed, **given)
    plan = folder / "plan.toml"
    plan.write_text(
        f"rounds = 2\n[data]\nsource = 'table'\npath = 'home/data'\ncolumns = ['a', 'b']\nclasses = {plan_classes}\n"
        f"[method]\nname = '{method}'\n[model]\nname = 'mlp'\n[privacy]\nepsilon = 3.0\n"
    )
    return Home.open(folder / "home"), plan


BOUNDS = {"*": [-4.0, 4.0]}
SHARED_HEAD = {
    "method": "fedavg",
    "data__scale": "none",
    "policy__methods": ["fedavg"],
    "policy__roles": ["body", "head", "aux", "norm", "stats"],
}


@pytest.mark.parametrize(
    ("plan_classes", "given", "says"),
    [
        ([], {"data__scale": "none"}, "list of classes"),
        (["0", "1"], {}, "scale of the inputs"),
        ([], {"data__scale": "none", "data__classes": ["0", "1"]}, ""),
        (["0", "1"], {"data__scale": "none"}, ""),
        ([], SHARED_HEAD, "list of classes"),
        (["0", "1"], SHARED_HEAD, ""),
        (["0", "1"], {"data__scale": "dp", "data__bounds": BOUNDS}, ""),
    ],
)
def test_constants_and_classes_computed_from_private_rows_are_refused(plan_classes, given, says, tmp_path):
    """By the rehearsal, and again when the guarantee is computed."""
    home, plan = clinic(tmp_path, plan_classes, **given)
    facts, _ = rehearse(home, plan)
    assert says in facts.refused
    assert bool(facts.refused) == bool(says)
    assert (facts.claim.privacy is None) == bool(says)
    site_plan = SitePlan(home, read_requested_plan(home, plan).agreement)
    site_rows = load_rows(site_plan)
    study = build_study(site_plan, site_rows.data.classes)
    if says:
        with pytest.raises(Denied, match=says):
            make_silo(site_plan, study, site_rows)
    else:
        silo = make_silo(site_plan, study, site_rows)
        assert bool(silo.guarantee.releases.statistics) == (given["data__scale"] == "dp")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "no such file"),
        ("[a]\nmean = 1\nst", "not TOML"),
        ("[a]\nmean = 1\nstd = 1\n[bb]\nmean = 1\nstd = 1\n", r"std in \[b\]"),
        ("['*']\nmean = nan\nstd = 1\n", r"mean in \[\*\]"),
    ],
)
def test_a_broken_file_of_constants_ends_the_rehearsal(text, says, tmp_path):
    """With exit code 3, which a refusal has. What is wrong without a plan, too, also fails fedtl silo check."""
    home, plan = clinic(tmp_path, ["0", "1"], data__scale="constants.toml")
    if text is not None:
        (home.path / "constants.toml").write_text(text)
    with pytest.raises(Refused, match=f"^clinic: .*{says}[^\n]*$") as caught:
        rehearse(home, plan)
    assert caught.value.exit_code == 3
    assert not (home.path / "rehearsed").exists()
    (data,) = (check for check in check_readiness(home) if check.name == "data")
    assert data.ok == ("std in" in says)  # which columns there are is the plan's


def test_a_method_with_slots_needs_their_role_allowed_and_says_what_each_costs(tmp_path):
    settings = load_experiment("digits", ["minimum_silos=3", "rounds=2", "method.name=scaffold"])
    made = build_bundle(tmp_path / "bundles", "digits", settings)
    Home.create(tmp_path / "home", "plain", "fl.example.org:8443")
    roles = ["body", "head", "norm", "stats", "aux"]
    allowed = {"policy__roles": roles, "policy__methods": ["scaffold"], "policy__privacy": None}
    Federation.change(
        tmp_path / "home" / "silo.toml",
        data__source="digits",
        data__path="",
        policy__share_row_count=True,
        **allowed,
    )
    facts, _ = rehearse(Home.open(tmp_path / "home"), made.file)
    assert "control/" in facts.refused
    Federation.change(tmp_path / "home" / "silo.toml", policy__roles=[*roles, "extra"])
    facts, page = rehearse(Home.open(tmp_path / "home"), made.file)
    assert facts.refused == ""
    assert [(part.name, part.leaves) for part in facts.tensors.parts] == [
        ("own_control", False),
        ("control", True),
    ]
    size = sum(line.bytes for line in facts.tensors.manifest.lines if line.name.startswith("control/"))
    assert {part.bytes for part in facts.tensors.parts} == {size}
    text = page.read_text()
    assert "set control" in text
    assert "set own_control" in text
    assert f"{size:,} bytes" in text
