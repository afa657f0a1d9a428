"""
The audit against broken privacy: the real pipeline with one line changed is refuted by the check for this fault, for the
right reason; and the sound pipeline, twenty times, by no check.
"""

import math

import numpy as np
import pytest
import torch

from fedtl.audit.audited_run import AuditedRun
from fedtl.audit.checks import check_run, retraining_jobs
from fedtl.audit.retraining.checks import RETRAINING_CHECKS
from fedtl.audit.verdict import Check, not_exercised
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.guarantees import with_guarantees
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import build
from fedtl.messages import SpendEvent
from fedtl.methods.base import Phase
from fedtl.models.roles import Role
from fedtl.privacy import accounting, ledger
from fedtl.privacy import dp_adabn as statistics
from fedtl.privacy import dp_sgd as mechanism
from fedtl.privacy import guarantee as guarantee
from fedtl.privacy.dp_adabn import adaptable_layers
from fedtl.privacy.noise import Noise
from fedtl.privacy.per_sample import clipping as gradients
from fedtl.results.audit import Adversary
from fedtl.simulation.shared_store import temporary_store
from fedtl.training import private
from fedtl.training.batches import to_inputs
from tests.audit.retraining import only
from tests.experiments import ROUNDS_ONLY

SMALL = [
    *("rounds=4", "data.limit=60", "engine.name=serial", 'data.silos=["plain", "faint"]', "train.epochs=2"),
    *("privacy.epsilon=8", "privacy.tuning=public", "audit.canaries=500", "audit.transcript=2"),
    *ROUNDS_ONLY,
]


def audited(folder, *changes, retrain=()):
    """
    Run the real pipeline and audit it; a fault is in both. Of the retraining checks, only ``retrain`` and those measured
    with them are exercised; the others keep their shares of the level, so that each check decides as in a whole audit.
    """
    settings = dict(change.split("=", 1) for change in (*SMALL, *changes))
    experiment = load_experiment("digits", [f"{key}={value}" for key, value in settings.items()])
    out = RunFolder.create(folder / "run", experiment)
    run(experiment, out)
    with temporary_store() as shelf:
        study = with_guarantees(build(experiment, shelf, shelf), out)
        audit = AuditedRun(out, study, Adversary.SERVER)
        jobs = retraining_jobs(audit)
        with pytest.MonkeyPatch.context() as patch:
            only(patch, retrain)
            found = {name: job(study.trainer) if retrain else [] for name, job in jobs.items()}
        return check_run(audit, {name: _all_checks(name, checks) for name, checks in found.items()})


def _all_checks(silo, exercised):
    """RETRAINING_CHECKS in their order; those that are not among ``exercised`` are not exercised."""
    found = {check.name: check for check in exercised}
    return [found.get(name) or Check(name, silo, *not_exercised("")) for name in RETRAINING_CHECKS]


def reasons(findings):
    return {(check.name, check.silo): check.reason for check in findings.violations}


def caught(findings, name, words, silos=("faint", "plain")):
    """Each silo is refuted by this check, with these words in the reason."""
    found = reasons(findings)
    for silo in silos:
        assert (name, silo) in found, (name, sorted(found))
        assert words in found[name, silo], found[name, silo]


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(1, 20))]
)
def test_the_sound_pipeline_passes(seed, tmp_path):
    kind = "dp" if seed % 2 else "public"
    method = ("fedtl", "fedavg", "fedrep")[seed % 3]
    epsilon = (1, 3, 8)[seed % 3]
    findings = audited(
        tmp_path,
        f"seed={seed}",
        f"privacy.statistics={kind}",
        f"method.name={method}",
        f"privacy.epsilon={epsilon}",
        retrain=RETRAINING_CHECKS,
    )
    assert not reasons(findings)
    assert len(findings.checks) == 2 * (10 + len(RETRAINING_CHECKS) + 5 + 2) + 1 + 2
    for silo in findings.silos.values():
        assert silo.conformance.passed
        assert silo.bounds.steinke < silo.claimed.epsilon


def test_noise_that_is_silently_zero(monkeypatch, tmp_path):
    monkeypatch.setattr(Noise, "_grains", lambda self, count, std: torch.zeros(count, dtype=torch.float64))
    findings = audited(tmp_path, "privacy.epsilon=1")
    caught(findings, "noise", "no noise")
    caught(findings, "bound fdp", "is at least")


def test_noise_that_is_halved(monkeypatch, tmp_path):
    sound = Noise._grains
    monkeypatch.setattr(Noise, "_grains", lambda self, count, std: (sound(self, count, std) / 2).round())
    findings = audited(tmp_path)
    caught(findings, "noise", "times the claimed")
    assert all(abs(check.value - 0.5) < 0.02 for check in findings.checks if check.name == "noise")


def test_a_clip_of_the_batch_instead_of_each_record(monkeypatch, tmp_path):
    """The mean gradient is clipped; records that are ten clips long are hidden in it."""

    def of_batch(take, net, rows, losses, clip, units=None):
        total = losses(net, rows).sum()
        each = torch.autograd.grad(total, gradients.trainable(net), allow_unused=True, materialize_grads=True)
        length = math.sqrt(sum(float(part.square().sum()) for part in each)) / len(rows)
        return [part * min(1.0, clip / (length + 1e-6)) for part in each]

    monkeypatch.setattr(mechanism, "clipped", of_batch)
    findings = audited(tmp_path)
    caught(findings, "sensitivity", "one record")


def test_no_clipping(monkeypatch, tmp_path):
    monkeypatch.setattr(
        mechanism, "clipped",
        lambda take, net, rows, losses, clip, units=None: take(net, rows, losses, units)[1](torch.ones(len(rows))),
    )  # fmt: skip
    findings = audited(tmp_path)
    caught(findings, "sensitivity", "more than")
    assert all(check.value > 9 for check in findings.checks if check.name == "sensitivity")


def test_noise_drawn_from_the_experiments_seed(monkeypatch, tmp_path):
    """A seed like that of a shuffle: another one for each silo and round, and reproducible by everybody."""

    def random(self, *purpose):
        return Noise.reproducible(guarantee.address("noise", 0, *purpose))

    monkeypatch.setattr(guarantee.PrivacyGuarantee, "random", random)
    findings = audited(tmp_path, retrain=["fresh noise"])
    caught(findings, "fresh noise", "a seed")


def test_the_same_seed_at_two_silos(monkeypatch, tmp_path):
    """A new seed for each process, which both silos use."""
    secret = int.from_bytes(np.random.default_rng().bytes(6), "big")
    turn = {}

    def random(self, *purpose):
        count = turn[self.account.dataset, purpose] = turn.get((self.account.dataset, purpose), 0) + 1
        return Noise.reproducible(guarantee.address("noise", secret, count, *purpose[:1], *purpose[2:]))

    monkeypatch.setattr(guarantee.PrivacyGuarantee, "random", random)
    findings = audited(tmp_path, retrain=["fresh noise"])
    assert "same seed" in reasons(findings)["noise between silos", "faint and plain"]
    assert ("fresh noise", "plain") not in reasons(findings)


def test_the_same_noise_in_every_round(monkeypatch, tmp_path):
    """Every round starts the generator with the same seed."""
    monkeypatch.setattr(
        guarantee.PrivacyGuarantee,
        "random",
        lambda self, *purpose: Noise.reproducible(7 if purpose[0] == "noise" else hash(purpose)),
    )
    caught(audited(tmp_path), "repeats", "used twice")


@pytest.mark.parametrize("where", ["drawn", "intended"])
def test_noise_on_statistics_that_is_halved(where, monkeypatch, tmp_path):
    """Half of the intended noise is drawn, or half of the charged noise is intended; gradients have all of their noise."""
    if where == "drawn":
        sound = statistics.release_statistics

        class Half:
            def __init__(self, noise):
                self.noise = noise

            def add(self, total, std):
                return self.noise.add(total, std / 2)

        monkeypatch.setattr(
            statistics, "release_statistics", lambda body, rows, release, noise, *rest: sound(body, rows, release, Half(noise), *rest)
        )  # fmt: skip
    else:
        sound = statistics.StatisticsRelease.noise_std
        monkeypatch.setattr(
            statistics.StatisticsRelease, "noise_std", lambda self, radius: sound(self, radius) / 2
        )
    findings = audited(
        tmp_path,
        "privacy.statistics=dp",
        retrain=["one record in the statistics"] if where == "drawn" else (),
    )
    caught(findings, "noise on statistics", "times the claimed")
    assert {name for name, _ in reasons(findings)} <= {"noise on statistics", "one record in the statistics"}
    assert all(
        abs(check.value - 0.5) < 0.03 for check in findings.checks if check.name == "noise on statistics"
    )


def test_statistics_that_are_not_clipped(monkeypatch, tmp_path):
    monkeypatch.setattr(statistics, "clipped", lambda values, limit: values)
    findings = audited(tmp_path, "privacy.statistics=dp")
    caught(findings, "sensitivity of statistics", "sum of statistics")


@pytest.mark.parametrize("kind", ["public", "dp"])
def test_exact_statistics_instead_of_released_ones(kind, monkeypatch, tmp_path):
    """The silo's own exact mean and variance in place of public or noisy ones."""

    @torch.no_grad()
    def exact(loop, weights, silo, *rest):
        net = weights.net
        net.eval()
        for norm in adaptable_layers(net.body).values():
            seen = []
            hook = norm.register_forward_pre_hook(lambda module, given, seen=seen: seen.append(given[0]))
            net.body(to_inputs(silo.data.train.x, loop.device))
            hook.remove()
            found = seen[0].transpose(0, 1).flatten(1)
            norm.running_mean.copy_(found.mean(1))
            norm.running_var.copy_(found.var(1))

    if kind == "dp":
        monkeypatch.setattr(private, "release_statistics", exact)
        findings = audited(tmp_path, "privacy.statistics=dp", retrain=["statistics"])
        caught(findings, "statistics", "no noise")
        caught(findings, "noise on statistics", "without canaries")
    else:
        sound = private.train_phase

        def train_phase(loop, weights, silo, *rest):
            exact(loop, weights, silo)
            sound(loop, weights, silo, *rest)

        monkeypatch.setattr(private, "train_phase", train_phase)
        caught(
            audited(tmp_path, "privacy.statistics=public", retrain=["around the mechanism"]),
            "around the mechanism",
            "tensors depend",
        )


def test_a_head_trained_outside_the_mechanism(monkeypatch, tmp_path):
    sound = private.train_phase

    def train_phase(loop, weights, silo, task, number, *rest):
        sound(loop, weights, silo, task, number, *rest)
        loop.run(weights, Phase(frozenset({Role.HEAD}), 1), silo, task, 9)

    monkeypatch.setattr(private, "train_phase", train_phase)
    findings = audited(tmp_path, retrain=["around the mechanism", "noisy sums alone"])
    caught(findings, "around the mechanism", "head.")
    caught(findings, "noisy sums alone", "head.")


def test_shuffled_batches_instead_of_poisson_samples(monkeypatch, tmp_path):
    """Batches of the expected size from a shuffle in each epoch."""
    left = {}

    def shuffled(count, rate, noise):
        if not left.get(noise):
            order = torch.from_numpy(noise.uniform(count).numpy().argsort())
            left[noise] = list(order.split(math.ceil(count * rate)))
        return left[noise].pop().sort()[0]

    monkeypatch.setattr(mechanism, "poisson", shuffled)
    caught(audited(tmp_path, "train.batch_size=15"), "sampling", "not Poisson")


def test_a_clip_that_book_keeping_does_not_apply(monkeypatch, tmp_path):
    """The fast gradient method clips to ten times the norm that the noise is for."""
    sound = mechanism.clipped

    def clipped(take, net, rows, losses, clip, units=None):
        return sound(take, net, rows, losses, clip * (10 if take is gradients.by_bookkeeping else 1), units)

    monkeypatch.setattr(mechanism, "clipped", clipped)
    # fedtl compares both gradient methods before training and would detect this fault; here the comparison is switched off.
    monkeypatch.setattr(gradients, "choose_gradient_method", lambda *args, **more: gradients.by_bookkeeping)
    findings = audited(tmp_path)
    caught(findings, "sensitivity", "more than")


def test_an_accountant_that_begins_anew_each_round(monkeypatch, tmp_path):
    sound = accounting.merge_events

    class Forgetful:
        def __getattr__(self, name):
            return getattr(accounting, name)

        @staticmethod
        def merge_events(events):
            events = list(events)
            return sound(events[-1:]) if events and isinstance(events[0], SpendEvent) else sound(events)

    monkeypatch.setattr(ledger, "accounting", Forgetful())
    caught(audited(tmp_path, "privacy.statistics=public"), "ledger arithmetic", "so far cost")


def test_a_library_that_composes_too_little(monkeypatch, tmp_path):
    """The ledger and the audit's arithmetic use the same library and agree; the second library does not."""
    sound = accounting._composed
    monkeypatch.setattr(accounting, "_composed", lambda *args: 0.98 * sound(*args))
    findings = audited(tmp_path, "privacy.statistics=dp")
    caught(findings, "composition by Opacus PRV", "PRV accountant")
    assert ("ledger arithmetic", "plain") not in reasons(findings)


def test_a_ledger_that_was_edited_afterwards(tmp_path):
    import sqlite3

    experiment = load_experiment("digits", SMALL)
    out = RunFolder.create(tmp_path / "run", experiment)
    run(experiment, out)
    with sqlite3.connect(out.silo("plain") / "ledger.sqlite") as connection:
        connection.execute("UPDATE lines SET line = replace(line, '\"round\":2', '\"round\":3')")
    with temporary_store() as shelf:
        study = with_guarantees(build(experiment, shelf, shelf), out)
        audit = AuditedRun(out, study, Adversary.SERVER)
        findings = check_run(audit, {"plain": [], "faint": []})
    caught(findings, "chain", "was altered", silos=["plain"])
