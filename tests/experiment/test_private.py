"""A whole private round and a whole private run: what leaves, what is charged, and what is refused."""

import json
import re
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save

from fedtl._util.records import to_plain
from fedtl.cli.main import main
from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.data.origins import DECLARED
from fedtl.errors import BudgetExhausted, ConfigError, Refused, RoundLost, SiloFailed
from fedtl.experiment.config.load import load_experiment, parse_settings, read_experiment
from fedtl.experiment.config.privacy_checks import doubtful, unsound
from fedtl.experiment.config.schema import PrivacySettings
from fedtl.experiment.page_facts import run_facts
from fedtl.experiment.privacy_plan import LedgerLocation, plan_guarantee
from fedtl.experiment.privacy_report import privacy_warnings, spent_privacy
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.messages import SpendEvent, Task, Update
from fedtl.methods.registry import METHODS
from fedtl.models.net import ModelSpec
from fedtl.models.registry import model_spec, with_private_norms
from fedtl.models.roles import Role
from fedtl.models.state import copy_state
from fedtl.privacy import accounting, charge, taint
from fedtl.privacy import dp_sgd as mechanism
from fedtl.privacy.ledger_reading import check_study_fits, read_state
from fedtl.privacy.per_sample import clipping as gradients
from fedtl.training import private
from fedtl.training.batches import make_batch
from fedtl.training.loop import TrainingConfig
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer
from tests.commands import fedtl
from tests.experiments import MIXED, ROUNDS_ONLY
from tests.problems import with_training

CLASSES = ("a", "b", "c")
SHAPE = (1, 8, 8)
SMALL = ["rounds=2", "data.limit=40", "engine.name=serial", "privacy.epsilon=8", *ROUNDS_ONLY]


def bench_of(method="fedtl", training=None, model="convnet"):
    plan = with_private_norms(model_spec(model, SHAPE, 0))
    made = METHODS[method]() if isinstance(method, str) else method
    return Trainer(plan, replace(made, exact_statistics="never"), training or TrainingConfig(batch_size=16))


def data_of(seed=0, n=60):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = torch.randn(n, *SHAPE, generator=generator) + y[:, None, None, None]
    return SiloDataset(Dataset(x, y), Dataset(x[:9], y[:9]), CLASSES, origins=DECLARED)


def silo_of(trainer, folder, data=None, rounds=3, name="here", **settings):
    data = data or data_of()
    private = PrivacySettings(**{"epsilon": 8.0, **settings})
    its = plan_guarantee(
        private, trainer, data, rounds, 0, LedgerLocation(folder / "ledger.sqlite", name, b"key")
    )
    _, local = trainer.partition.split(trainer.initial(3))
    return Silo(name, data, local, b"secret", its, taint.untrained_labels(trainer.partition.roles))


def task_of(trainer, number=1, **changes):
    shared, _ = trainer.partition.split(trainer.initial(3))
    return Task(**{"study": "study", "round": number, "rounds": 3, "seed": 0, "shared": shared, **changes})


def studies_of(silo):
    its = silo.guarantee
    state = read_state(its.account.path, its.account.dataset)
    return state.studies if state else {}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# What leaves: nothing but noisy tensors, for which tests/methods/test_promises.py asks every method


def test_a_shared_weight_tells_nothing_about_how_many_rows_there_are(tmp_path):
    trainer = bench_of()
    few, many = (silo_of(trainer, tmp_path / str(n), data_of(n=n)) for n in (30, 90))
    assert trainer.fit(few, task_of(trainer)).weight == trainer.fit(many, task_of(trainer)).weight


def test_two_rounds_and_two_silos_never_share_noise(tmp_path):
    """With a learning rate of one plain step, what moves is noise: two draws of it are as good as orthogonal."""
    trainer = bench_of(training=TrainingConfig(batch_size=60, momentum=0.0))
    moved = []
    for name in ("a", "b"):
        silo = silo_of(trainer, tmp_path / name, name=name, epsilon=0.2)
        for number in (1, 2):
            delta = trainer.fit(silo, task_of(trainer, number)).delta
            moved.append(torch.cat([tensor.flatten() for tensor in delta.values()]))
    for one in range(4):
        for other in range(one):
            assert abs(torch.corrcoef(torch.stack([moved[one], moved[other]]))[0, 1]) < 0.1


def test_statistics_change_by_dp_adabn_alone_and_once(tmp_path):
    trainer = bench_of()
    names = list(trainer.partition.names(Role.STATS))
    for kind, moves in (("public", False), ("dp", True)):
        silo = silo_of(trainer, tmp_path / kind, statistics=kind)
        before = copy_state(silo.local)
        trainer.fit(silo, task_of(trainer, 1))
        first = copy_state(silo.local)
        trainer.fit(silo, task_of(trainer, 2))
        assert any(not torch.equal(before[name], first[name]) for name in names) is moves
        assert all(torch.equal(first[name], silo.local[name]) for name in names)


def test_an_imitation_is_a_private_round_that_is_charged_to_nobody(tmp_path):
    trainer = bench_of("fedrep")
    real, imitated = (
        silo_of(trainer, tmp_path / name, statistics="dp", noise="reproducible")
        for name in ("real", "imitated")
    )
    for number in (1, 2):
        update, other = (
            trainer.fit(real, task_of(trainer, number)),
            trainer.fit_unaccounted(imitated, task_of(trainer, number)),
        )
        assert same(update.delta, other.delta)
        assert same(real.local, imitated.local)
        assert real.labels == imitated.labels
    assert (tmp_path / "real").exists()
    assert not (tmp_path / "imitated").exists()
    with pytest.raises(ValueError, match="no privacy guarantee"):
        trainer.fit_unaccounted(replace(real, guarantee=None), task_of(trainer))


def test_what_is_released_is_looked_at_before_every_phase_whatever_an_imitation_found(tmp_path, monkeypatch):
    looked = []
    sound = private.check_examples_independent
    monkeypatch.setattr(
        private, "check_examples_independent", lambda *its, **keys: (looked.append(1), sound(*its, **keys))
    )
    trainer = bench_of("fedrep")
    phases = len(trainer.method.phases)
    silo = silo_of(trainer, tmp_path)
    for number in (1, 2):
        trainer.fit_unaccounted(silo, task_of(trainer, number))
    assert len(looked) == phases == 2
    for number in (1, 2, 3):
        trainer.fit(silo, task_of(trainer, number))
    assert len(looked) == 4 * phases


def meet(module, inputs, output):
    """A forward hook through which every record sees all others."""
    return output + 0.1 * output.mean(0)


@pytest.fixture
def meeting(monkeypatch):
    """In every net that is built, records meet behind the body."""
    sound = ModelSpec.net

    def net(self, *its):
        made = sound(self, *its)
        made.body.register_forward_hook(meet)
        return made

    monkeypatch.setattr(ModelSpec, "net", net)


def test_a_net_in_which_records_meet_costs_nothing(meeting, tmp_path):
    trainer = bench_of()
    silo = silo_of(trainer, tmp_path, statistics="dp")
    for number in (1, 2):
        with pytest.raises(ConfigError, match=r"^here: .*layer head"):
            trainer.fit(silo, task_of(trainer, number))
    assert not silo.guarantee.account.path.exists()


def test_gradients_that_nobody_can_take_cost_nothing(monkeypatch, tmp_path):
    def none(*its):
        raise ConfigError("privacy: per-example gradients of this model cannot be computed")

    monkeypatch.setattr(private, "choose_gradient_method", none)
    silo = silo_of(bench_of(), tmp_path)
    with pytest.raises(ConfigError, match="^here: privacy: per-example"):
        bench_of().fit(silo, task_of(bench_of()))
    assert not silo.guarantee.account.path.exists()


def test_a_net_that_goes_wrong_later_costs_what_was_trained(tmp_path):
    """Looked at before the charge of each round, in each of its phases."""
    trainer = bench_of("fedrep")
    silo = silo_of(trainer, tmp_path)
    trainer.fit(silo, task_of(trainer, 1))
    cost = spent_privacy(silo.guarantee, "study")
    hook = trainer.net(3).body.register_forward_hook(meet)
    with pytest.raises(ConfigError, match="here: a record's"):
        trainer.fit(silo, task_of(trainer, 2))
    assert spent_privacy(silo.guarantee, "study") == cost
    hook.remove()
    trainer.fit(silo, task_of(trainer, 2))


def test_a_net_that_diverged_costs_nothing(tmp_path):
    trainer = bench_of()
    silo = silo_of(trainer, tmp_path)
    huge = {name: tensor * 1e30 for name, tensor in task_of(trainer).shared.items()}
    with pytest.raises(SiloFailed, match=r"^here: .*train\.lr"):
        trainer.fit(silo, task_of(trainer, shared=huge))
    assert not silo.guarantee.account.path.exists()


def test_a_simulation_says_what_is_wrong_with_its_model_in_one_line(meeting, monkeypatch, capsys, tmp_path):
    words = [word for setting in (*SMALL, "privacy.statistics=dp") for word in ("--set", setting)]
    monkeypatch.setattr(sys, "argv", ["fedtl", "run", "digits", "--out", str(tmp_path / "run"), *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: blurred: ")
    assert "layer head" in line
    assert not list(tmp_path.rglob("ledger.sqlite"))


def test_a_term_on_weights_acts_under_privacy(tmp_path):
    """The noise is reproducible here, so that only mu differs."""
    found = []
    for mu in (0.0, 5.0):
        trainer = bench_of(METHODS["fedprox"](mu=mu), TrainingConfig(batch_size=16, epochs=2))
        silo = silo_of(trainer, tmp_path / str(mu), noise="reproducible")
        found.append(trainer.fit(silo, task_of(trainer)).delta)
    norms = [sum(float(tensor.norm()) ** 2 for tensor in delta.values()) for delta in found]
    assert 0 < norms[1] < 0.9 * norms[0]


# What is charged


def test_all_rounds_together_come_to_the_promise_and_no_further(tmp_path):
    trainer = bench_of()
    silo = silo_of(trainer, tmp_path, rounds=2, statistics="dp", epsilon=3.0)
    for number in (1, 2):
        trainer.fit(silo, task_of(trainer, number))
    its = silo.guarantee
    q, steps = 16 / 60, 4
    wanted = [
        SpendEvent(its.releases.statistics.noise_multiplier, 1.0, 1),
        SpendEvent(its.training.noise_multiplier, q, 2 * steps),
    ]
    assert spent_privacy(its, "study").epsilon == pytest.approx(accounting.epsilon(wanted, its.delta))
    assert 2.9 < spent_privacy(its, "study").epsilon <= 3.0
    assert spent_privacy(its, "study").epsilon_replace_one > spent_privacy(its, "study").epsilon
    before = copy_state(silo.local)
    with pytest.raises(Refused, match="12 steps") as caught:
        trainer.fit(silo, task_of(trainer, 3))
    assert caught.value.exit_code == 3
    assert same(silo.local, before)
    with pytest.raises(BudgetExhausted, match="study 'another'"):
        trainer.fit(silo, task_of(trainer, 1, study="another"))


def test_a_study_that_ends_early_claims_its_whole_plan(tmp_path):
    """Whether it ends may depend on its results, so what its rounds came to is no claim, and not left for another study."""
    trainer = bench_of()
    silo = silo_of(trainer, tmp_path, rounds=3, epsilon=3.0)
    its = silo.guarantee
    assert spent_privacy(its, "study").epsilon == 0.0  # nothing was planned yet
    trainer.fit(silo, task_of(trainer))
    claimed = spent_privacy(its, "study")
    whole, first = its.schedule(), its.events(first=True)
    assert claimed.epsilon == its.epsilon == pytest.approx(accounting.epsilon(whole, its.delta))
    assert claimed.epsilon_replace_one == pytest.approx(accounting.epsilon(whole, its.delta, True))
    assert claimed.epsilon_charged == pytest.approx(accounting.epsilon(first, its.delta))
    assert claimed.epsilon_charged < 0.8 * claimed.epsilon
    short = with_training(its, rounds=1, steps=(1,) * len(its.training.steps))
    with pytest.raises(BudgetExhausted):
        check_study_fits(short.account, replace(short, epsilon=1.0).plan())


def test_the_same_round_again_gives_the_same_bytes_and_costs_nothing(tmp_path):
    trainer = bench_of()
    silo = silo_of(trainer, tmp_path)
    update = trainer.fit(silo, task_of(trainer))
    local, cost = copy_state(silo.local), spent_privacy(silo.guarantee, "study")
    again = replace(silo, local=silo_of(trainer, tmp_path).local)
    assert same(trainer.fit(again, task_of(trainer)).delta, update.delta)
    assert same(again.local, local)
    assert spent_privacy(silo.guarantee, "study") == cost
    changed = {name: tensor + 1 for name, tensor in task_of(trainer).shared.items()}
    with pytest.raises(Refused, match="another task"):
        trainer.fit(silo, task_of(trainer, shared=changed))


def test_a_round_that_failed_after_its_charge_is_lost_and_says_nothing(tmp_path, monkeypatch, caplog):
    trainer = bench_of()
    silo = silo_of(trainer, tmp_path)

    def fails(*given, **more):
        raise ValueError("row 7 is Mrs Miller's")

    with monkeypatch.context() as patch:
        patch.setattr(mechanism.Mechanism, "step", fails)
        with pytest.raises(SiloFailed) as caught:
            trainer.fit(silo, task_of(trainer))
    assert str(caught.value).startswith("here: no update for round 1 (")
    assert "Miller" not in str(caught.value)
    assert "Mrs Miller" in caplog.text
    assert spent_privacy(silo.guarantee, "study").epsilon > 0
    with pytest.raises(RoundLost, match="no reply"):
        trainer.fit(silo, task_of(trainer))
    trainer.fit(silo, task_of(trainer, 2))


def test_other_rows_under_the_same_name_are_noticed(tmp_path):
    trainer = bench_of()
    trainer.fit(silo_of(trainer, tmp_path), task_of(trainer))
    other = silo_of(trainer, tmp_path, data_of(seed=1))
    with pytest.raises(Refused, match="rows have changed"):
        trainer.fit(other, task_of(trainer, 2))


# Why it is needed: what one record does to the sum that is released


def released(trainer, state, data, rows):
    """The sum of clipped gradients of the body's tensors."""
    weights, phase = trainer._weights(state, 3), trainer.method.phases[0]
    net = weights.net
    trainer.loop.prepare(net, phase)

    def losses(model, which):
        batch = make_batch(data, which, None, trainer.device)
        return trainer.loop.example_losses(weights, phase, batch, 0.0)

    parts = gradients.clipped(gradients.by_hooks, net, rows, losses, 1.0)
    names = [name for name, weight in net.named_parameters() if weight.requires_grad]
    kept = [part.flatten() for name, part in zip(names, parts, strict=True) if name.startswith("body.")]
    return torch.cat(kept)


def sensitivity(trainer, states):
    """``states``: what the silo would train from, with and without its first record, which is an odd one."""
    data = odd()
    everyone = torch.arange(len(data.train))
    with_it = released(trainer, states[0], data, everyone)
    return float((with_it - released(trainer, states[1], data, everyone[1:])).norm())


def odd():
    data = data_of(n=90)
    data.train.x[0] *= 30
    return data


def test_constant_statistics_keep_the_promise_and_exact_ones_break_it():
    trainer, x = bench_of(), odd().train.x
    initial = trainer.initial(3)
    assert sensitivity(trainer, (initial, initial)) <= 1 + 1e-4
    exact = tuple(trainer.adapt(initial, rows, 3) for rows in (x, x[1:]))
    assert sensitivity(trainer, exact) > 5


def test_a_head_that_saw_the_rows_without_noise_breaks_it_too():
    from fedtl.methods.base import HEAD, Phase

    trainer, data = bench_of(), odd()
    start, states = trainer.initial(3), []
    for rows in (slice(None), slice(1, None)):
        own = replace(data, train=Dataset(data.train.x[rows], data.train.y[rows]))
        silo = Silo("here", own, {}, b"secret")
        states.append(trainer.train(silo, start, Phase(HEAD, 30), task_of(trainer)))
    assert sensitivity(trainer, tuple(states)) > 5


# Whole runs


def test_a_private_run_says_what_it_cost(tmp_path):
    experiment = load_experiment("digits", SMALL)
    done = run(experiment, RunFolder.create(tmp_path, experiment))
    costs = run_facts(RunFolder.open(tmp_path), experiment, done).epsilon  # by round, for the page
    result = to_plain(done)
    private = result["privacy"]
    assert private["private"] is True
    for name, its in private["silos"].items():
        assert 7.5 < its["epsilon"] <= 8.0 < its["epsilon_replace_one"]
        assert its["delta"] == 1e-5
        assert list(costs[name]) == [1, 2]
        assert 0 < costs[name][1] < costs[name][2] == pytest.approx(its["epsilon_charged"])
        assert (its["unit"], its["adjacency"]) == ("record", private["adjacency"])
        assert (tmp_path / "silos" / name / "ledger.sqlite").stat().st_mode & 0o777 == 0o600
        own = json.loads((tmp_path / "silos" / name / "validation.json").read_text())
        assert 0 <= own["accuracy"] <= 1  # where it was computed, and nowhere else
        assert "validation" not in result["silos"][name]
    assert set(private["not_released"]) >= {"silos", "mean", "worst"}
    assert str(own["loss"]) not in (tmp_path / "result.json").read_text()
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert all(metrics == {} for line in history for metrics in line["silos"].values())
    page = (tmp_path / "report.html").read_text() if (tmp_path / "report.html").exists() else ""
    assert "No differential privacy" not in page


@pytest.mark.slow
def test_processes_keep_the_same_promises(tmp_path):
    sets = [*SMALL[:2], *MIXED, "privacy.epsilon=8", "privacy.noise=reproducible"]
    sets.append('data.silos=["plain", "inverted", "faint"]')
    experiment = load_experiment("digits", [*sets, "engine.workers=2"])
    result = to_plain(run(experiment, RunFolder.create(tmp_path / "two", experiment)))
    alone = load_experiment("digits", [*sets, "engine.name=serial"])
    other = to_plain(run(alone, RunFolder.create(tmp_path / "one", alone)))
    assert result["privacy"]["private"] is False
    assert result["privacy"] == other["privacy"]
    assert result["silos"] == other["silos"]


@pytest.mark.slow
def test_a_stopped_private_run_goes_on_without_paying_twice(tmp_path):
    class Stop(Exception):
        pass

    def stop(one):
        raise Stop

    experiment = load_experiment("digits", SMALL)
    folder = RunFolder.create(tmp_path, experiment)
    with pytest.raises(Stop):
        run(experiment, folder, progress=stop)
    (tmp_path / "checkpoint" / "state.pt").unlink()  # killed after the charge, before the checkpoint
    result = to_plain(run(folder.experiment(), RunFolder.open(tmp_path)))
    assert result.get("left_out") is None
    assert all(its["epsilon"] <= 8.0 for its in result["privacy"]["silos"].values())


def test_one_silo_may_promise_more(tmp_path):
    experiment = load_experiment("digits", [*SMALL, "silo.faint.privacy.epsilon=1"])
    result = to_plain(run(experiment, RunFolder.create(tmp_path, experiment)))
    assert (
        result["privacy"]["silos"]["faint"]["epsilon"] <= 1.0 < result["privacy"]["silos"]["plain"]["epsilon"]
    )


@pytest.mark.slow
def test_a_plan_that_was_lengthened_is_exit_3(tmp_path):
    words = [word for setting in SMALL for word in ("--set", setting)]
    assert fedtl("run", "digits", "--out", tmp_path / "run", *words).returncode == 0
    (tmp_path / "run" / "result.json").unlink()
    (tmp_path / "run" / "checkpoint" / "state.pt").unlink()
    history = tmp_path / "run" / "history.jsonl"
    history.unlink()
    text = (tmp_path / "run" / "experiment.toml").read_text().replace("rounds = 2", "rounds = 3")
    (tmp_path / "run" / "experiment.toml").write_text(text)
    done = fedtl("run", "--resume", tmp_path / "run")
    assert done.returncode == 3, done.stderr
    assert "plan" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_budget_that_is_spent_is_exit_3_and_says_what_was_asked_and_what_is_left(tmp_path):
    """The run's folder by another name is another study on the same rows, whose ledgers came with them."""
    words = [word for setting in SMALL for word in ("--set", setting)]
    done = fedtl("run", "digits", "--out", tmp_path / "one", *words)
    assert done.returncode == 0, done.stderr
    other = (tmp_path / "one").rename(tmp_path / "two")
    for path in ("result.json", "history.jsonl", "checkpoint/state.pt"):
        (other / path).unlink()
    done = fedtl("run", "--resume", other)
    assert done.returncode == 3, done.stderr
    (line,) = done.stderr.splitlines()
    assert "study 'two'" in line
    assert re.search(r"taken \d+(\.\d+)? of 8 ", line)


# What is refused before anything is trained


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["method.name=local"], "method 'local'"),
        (["method.name=pooled"], "method 'pooled'"),
        (["method.name=coral", "data.target_domain=faint"], "loss Coral"),
        (["method.name=dann", "data.target_domain=faint"], "method 'dann'"),
        (["method.terms=[{name='mmd'}]", "data.target_domain=faint"], "MaximumMeanDiscrepancy"),
        (["model.dtype=bf16"], "model.dtype"),
        (["engine.stack=4"], "engine.stack = 4"),
        (["silo.faint.privacy.epsilon=-1"], "silo.faint.privacy"),
        (["silo.faint.privacy.epsilom=1"], "did you mean"),
        (["privacy.epsilon=0"], "privacy.epsilon"),
        (["privacy.unit=patient"], "privacy.unit"),
        (["privacy.unit=patien", "data.source=table", "data.unit_column=patient"], "the same column"),
    ],
)
def test_what_goes_past_the_noise_is_refused(settings, says):
    with pytest.raises(ConfigError, match=says) as caught:
        load_experiment("digits", [*SMALL, *settings])
    assert "\n" not in str(caught.value)


def test_overrides_without_privacy_are_refused():
    with pytest.raises(ConfigError, match=r"silo\.faint"):
        load_experiment("digits", ["silo.faint.privacy.epsilon=1"])


def test_a_delta_that_allows_to_publish_a_record_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"above 1/n"):
        silo_of(bench_of(), tmp_path, delta=0.1)


def test_few_rows_for_many_statistics_are_warned_about(tmp_path):
    trainer = bench_of()
    (text,) = privacy_warnings([silo_of(trainer, tmp_path, statistics="dp", epsilon=1.0).guarantee])
    assert "privacy.stages" in text
    first = silo_of(trainer, tmp_path, statistics="dp", epsilon=1.0, stages=[1]).guarantee
    every = silo_of(trainer, tmp_path, statistics="dp", epsilon=1.0).guarantee
    assert len(first.releases.statistics.layers) == 1 < len(every.releases.statistics.layers)
    assert first.releases.statistics.mean_noise_std < every.releases.statistics.mean_noise_std


def test_lint_lists_everything_at_once():
    wrong = [
        "method.name=coral",
        "data.target_domain=faint",
        "model.dtype=bf16",
        "privacy.noise=reproducible",
    ]
    experiment = parse_settings(read_experiment("digits", [*SMALL, *wrong]))
    assert len(list(unsound(experiment))) == 2
    asked = " ".join(doubtful(experiment))
    assert "nothing is private" in asked
    assert 'tuning = "undeclared"' in asked
    assert "their epsilons add" in asked
    assert not list(unsound(load_experiment("digits", SMALL)))
    assert not any(" taken from the private rows" in line for line in doubtful(experiment))


def test_values_that_are_declared_public_are_listed_as_such():
    settings = [*SMALL, "data.public=['faint']", "data.classes=['0', '1']"]
    warnings = doubtful(load_experiment("digits", settings))
    (line,) = (one for one in warnings if "taken from the private rows" in one)
    assert line.startswith("data.classes, data.public: ")


@pytest.mark.parametrize("at", ["privacy", "silo.faint.privacy"])
def test_a_tuning_that_was_never_charged_is_refused_in_one_line(at):
    with pytest.raises(ConfigError) as refused:
        load_experiment("digits", [*SMALL, f"{at}.tuning=charged"])
    said = str(refused.value)
    assert said.startswith(f"{at}.tuning = 'charged' ")
    assert '"undeclared"' in said
    assert "\n" not in said


def test_a_reply_keeps_every_bit(tmp_path):
    trainer = bench_of()
    update = trainer.fit(silo_of(trainer, tmp_path), task_of(trainer))
    local = {"head.x": torch.tensor([1.5, float("-inf")]), "count": torch.tensor(3)}
    back, own = charge._unpacked("here", charge._packed(update, local))
    assert back == replace(update, delta=back.delta)
    assert same(back.delta, update.delta)
    assert same(own, local)


def test_the_bytes_of_a_reply_are_those_that_ledgers_already_hold():
    """Written by hand; a stored reply must be read again, and its hash is in the ledger."""
    update = Update("here", 3, {"w": torch.ones(2)}, 1.0, {"accuracy": 0.5})
    wanted = save(
        {"delta.w": torch.ones(2), "local.b": torch.zeros(1)},
        {"header": '{"metrics": {"accuracy": 0.5}, "round": 3, "weight": 1.0}'},
    )
    assert charge._packed(update, {"b": torch.zeros(1)}) == wanted


# Where nothing is pretrained


def test_statistics_without_a_public_start_are_of_noise_and_of_nobodys_rows(tmp_path):
    """By hand: the first convolution's outputs on the same noise, their mean and variance."""
    from fedtl.experiment.pretrain import NOISES
    from fedtl.experiment.study import build
    from fedtl.simulation.shared_store import temporary_store

    with temporary_store() as shelf:
        seen = [
            build(load_experiment("digits", [*SMALL, f"data.silos={names}"]), shelf, shelf)
            for names in (["plain"], ["faint"])
        ]
        states = [study.trainer.initial(10) for study in seen]
    assert same(*states)
    x = torch.rand(NOISES, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    name = next(key for key in states[0] if key.endswith("running_mean"))
    first = torch.nn.functional.conv2d(x, next(t for key, t in states[0].items() if t.dim() == 4), padding=1)
    assert torch.allclose(states[0][name], first.mean((0, 2, 3)), atol=1e-5)
    assert not torch.allclose(states[0][name], torch.zeros(32), atol=1e-3)
