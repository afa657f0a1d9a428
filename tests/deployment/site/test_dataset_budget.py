"""The lifetime budget belongs to a dataset's name and rows: neither a new name nor a new study resets it."""

import pytest

from fedtl.deployment.coordinator.bundle import build_bundle, read_agreement
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.site_plan import SitePlan
from fedtl.deployment.site.site_rows import raw_row_hashes, read_raw_rows
from fedtl.deployment.site.status import dataset_budget, site_status
from fedtl.errors import BudgetExhausted, ConfigError
from fedtl.experiment.config.load import load_experiment
from fedtl.federation.policy import Code
from fedtl.messages import SpendEvent, Update
from fedtl.privacy.budget import Budget, Plan
from fedtl.privacy.ledger import Ledger, LedgerAccount
from fedtl.privacy.ledger_reading import read_ledger
from tests.deployment.site.sites import PRIVATE, Site
from tests.real_processes import Federation, fedtl_command

SHUT = {"policy__metrics": [], "policy__share_row_count": False}


def site_of(folder, **settings):
    return Site(folder, dp_ready=True, data__silo="plain", policy__privacy=PRIVATE, **SHUT, **settings)


def renamed(site, **changes):
    Federation.change(site.home.path / "silo.toml", **changes)
    return Home.open(site.home.path)


def test_a_dataset_keeps_the_name_under_which_it_was_charged(tmp_path):
    new = Home.create(tmp_path / "new", "clinic", "localhost:1")
    assert (new.settings.data.name, new.dataset) == ("clinic", "clinic")
    site = site_of(tmp_path, data__name=None)  # as homes were before
    assert site.home.dataset == "plain"
    assert isinstance(site.ask(site.task()), Update)
    spent = dataset_budget(site.home)
    assert spent.spent > 0
    other = renamed(site, name="other")
    assert other.dataset == "plain"
    assert dataset_budget(other) == spent
    named = renamed(site, data__name="plain")
    assert dataset_budget(named) == spent


def test_the_same_rows_under_another_name_are_refused(tmp_path):
    site = site_of(tmp_path)
    assert isinstance(site.ask(site.task()), Update)
    spent = dataset_budget(site.home).spent
    renamed(site, data__name="fresh")
    site.refused(site.task(2), Code.PLAN, "data.name: signed plain, now fresh")
    site.approve()
    site.refused(site.task(2), Code.DECLINED, "as 'plain'")
    assert "data.name = 'plain'" in site.lines()[-1]["reason"]
    assert site.lines()[-1]["reason"].startswith("fresh: ")
    assert "\n" not in site.lines()[-1]["reason"]
    assert site_status(Home.open(site.home.path)).budget.spent == 0.0
    back = renamed(site, data__name="plain")
    assert dataset_budget(back).spent == spent
    site.approve()
    assert isinstance(site.ask(site.task(2)), Update)


def test_each_dataset_has_its_own_budget(tmp_path):
    site = site_of(tmp_path)
    assert isinstance(site.ask(site.task()), Update)
    renamed(site, data__name="faint", data__silo="faint")
    site.approve()
    site.refused(site.task(study="t"), Code.DECLINED, "--new-dataset")
    own = PRIVATE["lifetime_epsilon"], 1e-4
    plan = SitePlan(Home.open(site.home.path), site.plan.agreement)
    rows = raw_row_hashes(read_raw_rows(plan), site.home.secret)
    Ledger.admit(LedgerAccount(site.home.ledger, "faint", rows, Budget(*own)))
    assert isinstance(site.ask(site.task(study="t")), Update)
    assert Home.open(site.home.path).dataset == "faint"
    either = renamed(site, name="other", data__name=None)
    with pytest.raises(ConfigError, match="data.name .*faint, plain"):
        _ = either.dataset


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    settings = load_experiment(
        "digits", ["minimum_silos=3", "rounds=4", "privacy.epsilon=3", "data.limit=40"]
    )
    return build_bundle(tmp_path_factory.mktemp("server") / "bundles", "digits", settings)


@pytest.fixture
def home(tmp_path):
    """A site whose lifetime epsilon is 4.0, for a study of epsilon 3.0."""
    Home.create(tmp_path / "home", "plain", "localhost:1")
    given = {"data__source": "digits", "data__path": "", "data__limit": 40, **SHUT}
    own = {**PRIVATE, "lifetime_epsilon": 4.0}
    Federation.change(tmp_path / "home" / "silo.toml", policy__privacy=own, **given)
    return Home.open(tmp_path / "home")


def test_commands_exit_with_3_when_the_budget_is_spent(home, made):
    fedtl_command("silo", "rehearse", home.path, made.file)
    assert not home.ledger.exists()
    events = (SpendEvent(1.15, 1.0, 1),)
    plan = Plan(3.75, 1e-5, events)
    ledger = Ledger(LedgerAccount(home.ledger, "plain", rows_of(home, made), Budget(4.0, 1e-4)))
    spent = ledger.charge("before", 1, "task", events, plan).epsilon
    assert spent == 3.75
    with pytest.raises(BudgetExhausted) as refused:
        ledger.charge("after", 1, "task", events, plan)
    assert refused.value.exit_code == 3

    done = fedtl_command("silo", "rehearse", home.path, made.file, code=3)
    said = " ".join(done.stdout.split())
    assert "plain: a new study" in said
    assert "3.75 of 4 " in said
    assert "1e-05 of 0.0001" in said
    assert "delta 9e-05 " in said
    assert "Traceback" not in done.stderr
    (line,) = fedtl_command("silo", "approve", home.path, made.hash, code=3).stderr.splitlines()
    assert "3.75 of 4 " in line
    assert "3.750 of 4, 0.250 left" in fedtl_command("silo", "status", home.path).stdout
    assert [line.entry.what for line in read_ledger(home.ledger, "plain")] == ["opened", "planned", "charged"]


def test_an_unaffordable_study_is_refused_before_a_ledger_exists(home, made):
    Federation.change(home.path / "silo.toml", policy__privacy={**PRIVATE, "lifetime_epsilon": 2.0})
    said = " ".join(fedtl_command("silo", "rehearse", home.path, made.file, code=3).stdout.split())
    assert "plain: a new study" in said
    assert "taken 0 of 2 " in said
    assert not home.ledger.exists()


def rows_of(home, made):
    plan = SitePlan(home, read_agreement(made.file.read_bytes(), "x")[1])
    return raw_row_hashes(read_raw_rows(plan), home.secret)


def test_a_rehearsal_refuses_rows_that_have_a_budget_under_another_name(home, made):
    Ledger(LedgerAccount(home.ledger, "plain", rows_of(home, made), Budget(4.0, 1e-4)))
    Federation.change(home.path / "silo.toml", data__name="fresh")
    said = " ".join(fedtl_command("silo", "rehearse", home.path, made.file, code=3).stdout.split())
    assert "fresh: " in said
    assert "as 'plain'" in said
