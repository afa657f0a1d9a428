"""A whole audit of a small run: its result, its page, its exit codes; and the documents of a run."""

import json
import os
import shutil
import sqlite3
from dataclasses import replace
from functools import partial

import pytest
import torch

from fedtl.audit.attacks.reference_models import (
    RECORDS,
    SILOS,
    TARGET,
    half,
    mislabelled_rows,
    pool_of,
    reference_data,
    train_reference,
)
from fedtl.audit.attacks.role_costs import role_sets
from fedtl.audit.audit import AuditOptions, audit_run, read_audit
from fedtl.audit.canaries.log import read_canary_phases
from fedtl.audit.jobs import audit_engine, run_jobs, study_job
from fedtl.audit.retraining.audited_silo import silo_of_study
from fedtl.audit.retraining.checks import retraining_checks
from fedtl.audit.transcript import RunDocuments, check_documents, check_manifest, read_chain
from fedtl.audit.verdict import FAMILY_LEVEL, Check, failed
from fedtl.audit.workload import Effort
from fedtl.errors import ConfigError, SiloFailed
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.guarantees import with_guarantees
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import TRANSCRIPT, RunFolder
from fedtl.experiment.study import build
from fedtl.federation.recorder import RecordedRound, read_transcript, rounds_to_record
from fedtl.models.roles import Role
from fedtl.results.audit import Adversary
from fedtl.simulation.shared_store import temporary_store
from fedtl.training.evaluate import scores_of
from fedtl.training.metrics import quick
from fedtl.training.trainer import Trainer
from tests.commands import fedtl
from tests.experiments import ROUNDS_ONLY

SMALL = ["rounds=2", "data.limit=40", 'data.silos=["plain", "faint"]', "engine.name=serial", *ROUNDS_ONLY]
PRIVATE = ["privacy.epsilon=8", "privacy.tuning=public", "audit.canaries=200", "audit.transcript=2"]
BRIEF = Effort(references=2, role_references=1, iterations=3)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def ran(path, *settings):
    folder = RunFolder.create(path, load_experiment("digits", [*SMALL, *settings]))
    run(folder.experiment(), folder)
    return folder


def audited(folder, out, adversary=Adversary.SERVER, effort=BRIEF):
    """Audit a run; return audit.json."""
    key = out.parent / "key.pem"
    result = audit_run(folder, out, AuditOptions(adversary, effort), key, lambda *_: None)
    assert read_audit(out) == result
    return json.loads((out / "audit.json").read_text())


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    path = tmp_path_factory.mktemp("audit")
    folder = ran(path / "run", *PRIVATE)
    return folder, audited(folder, path / "bundle"), path / "bundle"


def test_a_sound_run_is_not_refuted_and_everything_is_measured(private):
    _, found, _ = private
    assert found["violations"] == []
    for silo in found["silos"].values():
        assert silo["claimed"]["epsilon"] <= 8
        assert 0 < silo["claimed"]["mu"] < 2
        assert 0.01 < silo["claimed"]["tpr_at_fpr_0.01"] < 0.5
        assert silo["conformance"]["passed"] is True
        assert set(silo["conformance"]["p_values"]) >= {
            "noise",
            "sensitivity",
            "sampling",
            "chain",
            "composition by Opacus PRV",
            "fresh noise",
        }
        assert silo["bounds"]["steinke"] <= silo["claimed"]["epsilon"]
        assert set(silo["power"]["epsilon"]) == {"steinke", "fdp"}
        assert 0 < silo["power"]["noise"] < 0.5
    for attack in ("rmia", "lira"):
        assert 0 <= found["membership"][attack]["auc"] <= 1
        assert set(found["membership"][attack]["silos"]) == {"plain", "faint"}
        assert found["membership"][attack]["members"] == 80
    assert sum("Opacus' PRV accountant" in note for note in found["notes"]) == 1
    assert found["roles"][0]["shared"] == ["body"]
    assert len(found["roles"]) == 5
    assert found["inversion"]["cases"][-1]["case"] == "the run's first round"
    assert set(found["input_canaries"]["records"]) == {"plain", "faint"}
    assert found["peak_memory_mib"] > 100


def test_the_page_is_self_contained(private):
    _, found, out = private
    page = (out / "audit.html").read_text()
    assert "no violation found" in page
    assert page.count("<svg") == 2
    assert "<script" not in page
    assert 'src="http' not in page
    assert "mislabelled rows" in page
    assert "private rows" in page
    titles = [page.index(f"<h2>{at}. {part['title']}") for at, part in enumerate(found["statement"], 1)]
    assert titles == sorted(titles)
    assert "declares it: public" in page


def test_a_run_without_privacy_says_what_was_not_measured(tmp_path):
    folder = ran(tmp_path / "run")
    found = audited(folder, tmp_path / "server", effort=Effort(1, 1, 2, roles=False))
    assert found["membership"] == {}
    assert found["roles"] == []
    for silo in found["silos"].values():
        assert silo == {"claimed": None, "conformance": None, "bounds": None, "power": None}
    assert "Nothing: the run" in (tmp_path / "server" / "audit.html").read_text()
    assert "not measured" in (tmp_path / "server" / "audit.html").read_text()
    seen = audited(folder, tmp_path / "model", Adversary.MODEL, Effort(1, 1, 2, roles=False))
    assert seen["membership"]["rmia"]["auc"] is not None


def test_a_pooled_run_is_not_audited(tmp_path):
    folder = ran(tmp_path / "run", "method.name=pooled")
    with pytest.raises(ConfigError, match="pooled"):
        audited(folder, tmp_path / "out")
    assert not (tmp_path / "key.pem").exists()


# The command


@pytest.mark.slow
def test_the_command_verifies_a_bundle_and_exits_with_5_if_a_claim_is_refuted(private, tmp_path):
    folder, _, out = private
    done = fedtl("audit", "verify", out)
    assert done.returncode == 0, done.stderr
    assert "no violation found" in done.stdout
    path = tmp_path / "run"
    shutil.copytree(folder.path, path)
    with sqlite3.connect(path / "silos" / "plain" / "ledger.sqlite") as book:
        book.execute("UPDATE lines SET line = replace(line, '\"delta\"', '\"delta\" ')")
    env = {**os.environ, "FEDTL_CHECKS": ""}  # without retraining: the ledger's chain is what was altered
    done = fedtl("audit", path, "--quick", "--json", env=env, imports=["tests.audit.retraining"])
    assert done.returncode == 5, done.stderr
    found = json.loads(done.stdout)
    assert any(line.startswith("plain: chain: line") for line in found["violations"])
    assert not any(line.startswith("faint") for line in found["violations"])
    last = done.stderr.splitlines()[-1]
    assert last.index("claimed: epsilon") < last.index("measured: ") < last.index("refute it")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["audit", "digits", "--vantage", "moon"], "--vantage"),
        (["audit", "nowhere.toml"], "nowhere.toml"),
        (["audit", "verify"], "verify BUNDLE"),
        (["audit", "digits", "--set", "method.name=pooled"], "pooled"),
    ],
)
def test_a_mistake_is_one_line(words, part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = fedtl(*words)
    assert done.returncode == 2
    assert part in done.stderr.splitlines()[-1]


# Its parts


def test_a_family_of_checks_shares_its_level():
    checks = [Check(str(i), "a", FAMILY_LEVEL / 10 * (0.9 if i == 3 else 1.1), None, "") for i in range(10)]
    assert [check.name for check in failed(checks)] == ["3"]
    assert failed([Check("a", "a", float("nan"), None, "")])  # a p-value that is not a number fails


def test_the_first_and_the_last_round_are_recorded(private):
    assert rounds_to_record(40, 8) == {1, 7, 12, 18, 23, 29, 34, 40}
    assert rounds_to_record(3, 8) == {1, 2, 3}
    assert (rounds_to_record(5, 1), rounds_to_record(5, 0)) == ({1}, frozenset())
    folder = private[0]
    seen = read_transcript(folder.path / TRANSCRIPT)
    assert [one.round for one in seen] == [1, 2]
    # The server moved the shared tensors by the mean of the updates.
    moved = torch.stack([seen[0].deltas[name]["body.features.0.weight"] for name in ("faint", "plain")]).mean(
        0
    )
    after = seen[1].shared["body.features.0.weight"] - seen[0].shared["body.features.0.weight"]
    assert torch.allclose(moved, after, atol=1e-6)


def test_the_manifest_follows_from_the_model_alone(private):
    folder = private[0]
    with temporary_store() as shelf:
        study = build(folder.experiment(), shelf, shelf)
        whole_state = study.trainer.initial(10)
        seen = read_transcript(folder.path / TRANSCRIPT)
        assert not failed(check_manifest(seen, study.trainer.partition, whole_state, study.trainer.encoding))
        extra = dict(seen[0].deltas["plain"]) | {"head.bias": whole_state["head.bias"]}
        odd = [RecordedRound(1, seen[0].shared, {**seen[0].deltas, "plain": extra}, seen[0].weights)]
        assert [
            check.silo
            for check in failed(
                check_manifest(odd, study.trainer.partition, whole_state, study.trainer.encoding)
            )
        ] == ["plain"]


def test_a_shortened_chain_is_found(private, tmp_path):
    book = tmp_path / "ledger.sqlite"
    for suffix in ("", ".tip"):
        shutil.copy(private[0].silo("plain") / f"ledger.sqlite{suffix}", f"{book}{suffix}")
    assert read_chain(book, "plain")[1] == ""
    with sqlite3.connect(book) as connection:
        connection.execute("DELETE FROM lines WHERE number = (SELECT max(number) FROM lines)")
    assert ".tip file says" in read_chain(book, "plain")[1]


def test_references_are_halves_and_their_complements(private):
    with temporary_store() as shelf:
        study = build(private[0].experiment(), shelf, shelf)
        pool = pool_of(study, "plain")
        assert pool.member.sum() == 40
        first, second = half(study, "plain", 0), half(study, "plain", 1)
        assert (first ^ second).all()
        assert not (half(study, "plain", 2) == first).all()
        rows = reference_data(study, "plain", 0).train
        assert torch.equal(rows.x, pool.rows.x[torch.from_numpy(first)])
        assert reference_data(study, "plain", TARGET) is not None
        assert torch.equal(reference_data(study, "plain", TARGET).train.x, study.data("plain").train.x)


@pytest.mark.slow
def test_a_reference_is_the_same_in_whichever_process(tmp_path):
    with temporary_store() as shelf:
        alone = build(load_experiment("digits", SMALL), shelf, shelf)
        several = [
            *(one for one in SMALL if "engine" not in one),
            "engine.name=processes",
            "engine.workers=2",
        ]
        study = build(load_experiment("digits", several), shelf, shelf)
        here = {number: train_reference(alone, number, 2) for number in (0, 1)}
        jobs = {
            str(number): study_job(study, partial(train_reference, number=number, transcript=2))
            for number in (0, 1)
        }
        with audit_engine(study, None) as engine:
            there = dict(run_jobs(engine, jobs))
            with pytest.raises(SiloFailed, match="odd: failed"):
                list(
                    run_jobs(
                        engine, {"odd": study_job(study, partial(train_reference, number=None, transcript=2))}
                    )
                )
    for number in (0, 1):
        one, other = here[number], there[str(number)]
        assert same(one.shared, other.shared)
        assert [seen.round for seen in one.messages] == [seen.round for seen in other.messages] == [1, 2]
        assert all(same(one.whole[name], other.whole[name]) for name in ("plain", "faint"))
        for a, b in zip(one.messages, other.messages, strict=True):
            assert all(same(a.deltas[name], b.deltas[name]) for name in ("plain", "faint"))
    assert not same(here[0].shared, here[1].shared)


def test_planted_rows_are_mislabelled_test_rows(private):
    with temporary_store() as shelf:
        study = build(private[0].experiment(), shelf, shelf)
        test = study.evaluation_set("plain").test
        rows, coins = mislabelled_rows(study, "plain", RECORDS)
        assert torch.equal(rows.x, test.x)
        assert not (rows.y == test.y).any()
        assert 0 < coins.sum() < len(coins)
        assert len(reference_data(study, "plain", RECORDS).train) == 40 + coins.sum()
        _, whole_silo = mislabelled_rows(study, "plain", SILOS)
        assert whole_silo.all() or not whole_silo.any()


def test_role_sets_share_more_and_more(private):
    with temporary_store() as shelf:
        found = role_sets(build(private[0].experiment(), shelf, shelf))
    assert found[0] == {Role.BODY}
    assert {Role.HEAD, Role.STATS, Role.NORM, Role.BODY} in found


# The documents


def documents_of(folder, **changes):
    documents = RunDocuments(
        silo="plain",
        study=folder.path.name,
        ledger=folder.silo("plain") / "ledger.sqlite",
        claim=folder.result().privacy.silos["plain"],
        answered=[1, 2],
        messages=read_transcript(folder.path / TRANSCRIPT),
        canaries=read_canary_phases(folder.silo("plain") / "canaries"),
        seed=0,
        rounds=2,
    )
    return replace(documents, **changes)


def red(folder, **changes):
    return {check.name: check.reason for check in failed(check_documents(documents_of(folder, **changes)))}


def test_each_disagreement_of_documents_is_found(private):
    folder = private[0]
    sound = documents_of(folder)
    assert not red(folder)
    assert not red(folder, study="renamed since")
    assert "round 3 was" in red(folder, answered=[1, 2, 3])["charged rounds"]
    twice = [*sound.canaries, *sound.canaries]
    assert "noisy steps" in red(folder, canaries=twice)["charged rounds"]
    assert "is claimed" in red(folder, claim=replace(sound.claim, epsilon=1.0))["ledger arithmetic"]
    assert (
        "were charged" in red(folder, claim=replace(sound.claim, noise_multiplier=1.0))["ledger arithmetic"]
    )
    shared = {name: 2 * tensor for name, tensor in sound.messages[0].shared.items()}
    other = [replace(sound.messages[0], shared=shared)]
    assert "another task" in red(folder, messages=other)["link to messages"]
    with pytest.raises(ConfigError, match="none is missing"):
        check_documents(documents_of(folder, ledger=folder.path / "none"))


def exact_metrics(trainer, silo):
    val, net = silo.data.val, trainer.net(silo.data.width)
    return quick(scores_of(net, val.x, silo.data, trainer.device, trainer.dtype), val.y, silo.data.task)


def test_an_update_with_exact_validation_metrics_is_found(private, monkeypatch):
    sound = Trainer.fit

    def fit(self, silo, task):
        update = sound(self, silo, task)
        return replace(update, metrics=exact_metrics(self, silo))

    with temporary_store() as shelf:
        study = with_guarantees(build(private[0].experiment(), shelf, shelf), private[0])
        phases = read_canary_phases(private[0].silo("plain") / "canaries")
        assert not failed(retraining_checks(silo_of_study(study, "plain"), phases))
        monkeypatch.setattr(Trainer, "fit", fit)
        violations = failed(retraining_checks(silo_of_study(study, "plain"), phases))
    reasons = {check.name: check.reason for check in violations}
    assert set(reasons) == {"local-only state", "noisy sums alone"}
    assert "metrics" in reasons["local-only state"]
