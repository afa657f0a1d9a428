"""A whole audit of a small run: what the bundle says, what it does not claim to know, its signature, its exit codes."""

import json
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch

from fedtl.audit import audit as whole
from fedtl.audit.attacks.reference_models import (
    RECORDS,
    SILOS,
    TARGET,
    half,
    half_data,
    planted,
    pool_of,
    reference,
    watched,
)
from fedtl.audit.attacks.role_costs import variants
from fedtl.audit.canaries.log import stretches
from fedtl.audit.jobs import done, engine_for
from fedtl.audit.retraining.audited_silo import stage_of
from fedtl.audit.retraining.run import rehearse
from fedtl.audit.transcript import RunDocuments, chain, manifest, transcript
from fedtl.audit.verdict import FAMILY, Check, failed
from fedtl.errors import ConfigError, SiloFailed
from fedtl.experiment.config.load import load
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import TRANSCRIPT, RunFolder
from fedtl.experiment.study import build
from fedtl.federation.recorder import RecordedRound, read_transcript, rounds_to_record
from fedtl.models.roles import Role
from fedtl.simulation.shared_store import temporary_store
from fedtl.training.evaluate import scores_of
from fedtl.training.metrics import quick
from fedtl.training.trainer import Trainer

SMALL = ["rounds=2", "data.limit=40", 'data.silos=["plain", "faint"]', "engine.name=serial"]
PRIVATE = ["privacy.epsilon=8", "privacy.tuning=public", "audit.canaries=200", "audit.transcript=2"]
BRIEF = whole.Effort(references=2, for_roles=1, iterations=3)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def ran(path, *settings):
    folder = RunFolder.create(path, load("digits", [*SMALL, *settings]))
    run(folder.experiment(), folder)
    return folder


def audited(folder, out, vantage="server", effort=BRIEF):
    return whole.audit(folder, out, vantage, effort, out.parent / "key.pem", "cpu", lambda *its: None)


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    path = tmp_path_factory.mktemp("audit")
    folder = ran(path / "run", *PRIVATE)
    return folder, audited(folder, path / "bundle"), path / "bundle"


def fedtl(*words):
    return subprocess.run(
        [sys.executable, "-m", "fedtl", *map(str, words)], capture_output=True, text=True, timeout=300
    )


def test_a_sound_run_is_not_refuted_and_everything_is_measured(private):
    _, found, out = private
    assert found["violations"] == []
    assert json.loads((out / "audit.json").read_text()) == json.loads(json.dumps(found))
    for its in found["silos"].values():
        assert its["claimed"]["epsilon"] <= 8
        assert 0 < its["claimed"]["mu"] < 2
        assert 0.01 < its["claimed"]["tpr_at_fpr_0.01"] < 0.5
        assert its["conformance"]["passed"] is True
        assert set(its["conformance"]["p_values"]) >= {
            "noise",
            "sensitivity",
            "sampling",
            "chain",
            "composition by Opacus PRV",
            "fresh noise",
        }
        assert its["bounds"]["steinke"] <= its["claimed"]["epsilon"]
        assert set(its["power"]["epsilon"]) == {"steinke", "fdp"}
        assert 0 < its["power"]["noise"] < 0.5
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


def test_the_page_needs_nothing_but_itself(private):
    _, found, out = private
    page = (out / "audit.html").read_text()
    assert "no violation found in" in page
    assert page.count("<svg") == 2
    assert "<script" not in page
    assert 'src="http' not in page
    assert "planted in a run of their own" in page
    assert "made from private rows" in page
    titles = [page.index(f"<h2>{at}. {part['title']}") for at, part in enumerate(found["statement"], 1)]
    assert titles == sorted(titles)
    assert "Tuning on private data, as the experiment declares it: public." in page


def test_a_run_without_privacy_says_what_was_not_measured(tmp_path):
    folder = ran(tmp_path / "run")
    found = audited(folder, tmp_path / "server", effort=whole.Effort(1, 1, 2, roles=False))
    assert found["membership"] == {}
    assert found["roles"] == []
    for its in found["silos"].values():
        assert its == {"claimed": None, "conformance": None, "bounds": None, "power": None}
    assert "Nothing: the run was not private" in (tmp_path / "server" / "audit.html").read_text()
    assert "not measured" in (tmp_path / "server" / "audit.html").read_text()
    seen = audited(folder, tmp_path / "model", "model", whole.Effort(1, 1, 2, roles=False))
    assert seen["membership"]["rmia"]["auc"] is not None


def test_the_yardstick_is_not_audited(tmp_path):
    folder = ran(tmp_path / "run", "method.name=pooled")
    with pytest.raises(ConfigError, match="pooled"):
        audited(folder, tmp_path / "out")
    assert not (tmp_path / "key.pem").exists()


# The command


@pytest.mark.slow
def test_the_command_ends_with_5_where_a_claim_is_refuted_and_verifies_offline(private, tmp_path):
    folder, _, out = private
    done = fedtl("audit", "verify", out)
    assert done.returncode == 0, done.stderr
    assert "no violation found" in done.stdout
    path = tmp_path / "run"
    shutil.copytree(folder.path, path)
    with sqlite3.connect(path / "silos" / "plain" / "ledger.sqlite") as book:
        book.execute("UPDATE lines SET line = replace(line, '\"delta\"', '\"delta\" ')")
    done = fedtl("audit", path, "--quick", "--json")
    assert done.returncode == 5, done.stderr
    found = json.loads(done.stdout)
    assert any(line.startswith("plain: chain: line") for line in found["violations"])
    assert not any(line.startswith("faint") for line in found["violations"])
    last = done.stderr.splitlines()[-1]
    assert last.index("claimed: epsilon") < last.index("measured: ") < last.index("refute it")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["audit", "digits", "--vantage", "moon"], "--vantage"),
        (["audit", "nowhere.toml"], "there is no file"),
        (["audit", "verify"], "needs the bundle"),
        (["audit", "digits", "--set", "method.name=pooled"], "pooled"),
    ],
)
def test_a_mistake_is_one_line(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = fedtl(*words)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]


# Its parts


def test_a_family_of_checks_shares_its_level():
    checks = [Check(str(i), "a", FAMILY / 10 * (0.9 if i == 3 else 1.1), None, "") for i in range(10)]
    assert [check.name for check in failed(checks)] == ["3"]
    assert failed([Check("a", "a", float("nan"), None, "")])  # what cannot be computed does not pass


def test_rounds_are_kept_from_the_first_to_the_last(private):
    assert rounds_to_record(40, 8) == {1, 7, 12, 18, 23, 29, 34, 40}
    assert rounds_to_record(3, 8) == {1, 2, 3}
    assert (rounds_to_record(5, 1), rounds_to_record(5, 0)) == ({1}, frozenset())
    folder = private[0]
    seen = read_transcript(folder.path / TRANSCRIPT)
    assert [one.round for one in seen] == [1, 2]
    # The mean of the updates is where the server went.
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
        assert not failed(manifest(seen, study.trainer.partition, whole_state))
        extra = dict(seen[0].deltas["plain"]) | {"head.bias": whole_state["head.bias"]}
        odd = [RecordedRound(1, seen[0].shared, {**seen[0].deltas, "plain": extra}, seen[0].weights)]
        assert [check.silo for check in failed(manifest(odd, study.trainer.partition, whole_state))] == [
            "plain"
        ]


def test_a_chain_that_was_cut_is_missed(private, tmp_path):
    book = tmp_path / "ledger.sqlite"
    for suffix in ("", ".tip"):
        shutil.copy(private[0].silo("plain") / f"ledger.sqlite{suffix}", f"{book}{suffix}")
    assert chain(book, "plain")[1] == ""
    with sqlite3.connect(book) as connection:
        connection.execute("DELETE FROM lines WHERE number = (SELECT max(number) FROM lines)")
    assert "tip says" in chain(book, "plain")[1]


def test_references_are_halves_and_their_complements(private):
    with temporary_store() as shelf:
        study = build(private[0].experiment(), shelf, shelf)
        pool = pool_of(study, "plain")
        assert pool.member.sum() == 40
        first, second = half(study, "plain", 0), half(study, "plain", 1)
        assert (first ^ second).all()
        assert not (half(study, "plain", 2) == first).all()
        rows = half_data(study, "plain", 0).train
        assert torch.equal(rows.x, pool.rows.x[torch.from_numpy(first)])
        assert half_data(study, "plain", TARGET) is not None
        assert torch.equal(half_data(study, "plain", TARGET).train.x, study.data("plain").train.x)


@pytest.mark.slow
def test_a_reference_is_the_same_in_whichever_process(tmp_path):
    with temporary_store() as shelf:
        alone = build(load("digits", SMALL), shelf, shelf)
        several = [*SMALL[:-1], "engine.name=processes", "engine.workers=2"]
        study = build(load("digits", several), shelf, shelf)
        here = {number: reference(alone, number, 2) for number in (0, 1)}
        pieces = {str(number): partial(watched, study.source.study, number, 2) for number in (0, 1)}
        with engine_for(study, None) as engine:
            there = dict(done(engine, pieces))
            with pytest.raises(SiloFailed, match="odd: failed"):
                list(done(engine, {"odd": partial(watched, None, 0, 2)}))
    for number in (0, 1):
        one, other = here[number], there[str(number)]
        assert same(one.shared, other.shared)
        assert [its.round for its in one.seen] == [its.round for its in other.seen] == [1, 2]
        assert all(same(one.whole[name], other.whole[name]) for name in ("plain", "faint"))
        for a, b in zip(one.seen, other.seen, strict=True):
            assert all(same(a.deltas[name], b.deltas[name]) for name in ("plain", "faint"))
    assert not same(here[0].shared, here[1].shared)


def test_planted_rows_are_of_nobody_and_mislabelled(private):
    with temporary_store() as shelf:
        study = build(private[0].experiment(), shelf, shelf)
        test = study.exam("plain").test
        rows, coins = planted(study, "plain", RECORDS)
        assert torch.equal(rows.x, test.x)
        assert not (rows.y == test.y).any()
        assert 0 < coins.sum() < len(coins)
        assert len(half_data(study, "plain", RECORDS).train) == 40 + coins.sum()
        _, whole_silo = planted(study, "plain", SILOS)
        assert whole_silo.all() or not whole_silo.any()


def test_variants_share_more_and_more(private):
    with temporary_store() as shelf:
        found = variants(build(private[0].experiment(), shelf, shelf))
    assert found[0] == {Role.BODY}
    assert {Role.HEAD, Role.STATS, Role.NORM, Role.BODY} in found


# The papers


def papers_of(folder, **changes):
    result = folder.read_json("result.json")
    its = RunDocuments(
        *(
            "plain",
            folder.path.name,
            folder.silo("plain") / "ledger.sqlite",
            result["privacy"]["silos"]["plain"],
        ),
        *(
            [1, 2],
            read_transcript(folder.path / TRANSCRIPT),
            stretches(folder.silo("plain") / "canaries"),
            0,
            2,
        ),
    )
    return replace(its, **changes)


def red(folder, **changes):
    return {check.name: check.reason for check in failed(transcript(papers_of(folder, **changes)))}


def test_papers_that_do_not_fit_are_refused_one_by_one(private):
    folder = private[0]
    its = papers_of(folder)
    assert not red(folder)
    assert not red(folder, study="renamed since")
    assert "round 3 was answered and never charged" in red(folder, replied=[1, 2, 3])["charged rounds"]
    twice = [*its.run, *its.run]
    assert "noisy steps" in red(folder, run=twice)["charged rounds"]
    assert "is claimed" in red(folder, claim={**its.claim, "epsilon": 1.0})["ledger arithmetic"]
    assert "were charged" in red(folder, claim={**its.claim, "noise_multiplier": 1.0})["ledger arithmetic"]
    other = [replace(its.seen[0], shared={name: 2 * tensor for name, tensor in its.seen[0].shared.items()})]
    assert "another task" in red(folder, seen=other)["link to messages"]
    with pytest.raises(ConfigError, match="without a ledger"):
        transcript(papers_of(folder, ledger=folder.path / "none"))


def exact_metrics(trainer, silo):
    val, net = silo.data.val, trainer.net(silo.data.width)
    return quick(scores_of(net, val.x, silo.data, trainer.device, trainer.dtype), val.y)


def test_an_update_that_tells_of_validation_rows_is_found(private, monkeypatch):
    sound = Trainer.fit

    def fit(self, silo, task):
        update = sound(self, silo, task)
        return replace(update, metrics=exact_metrics(self, silo))

    with temporary_store() as shelf:
        study = build(private[0].experiment(), shelf, shelf).promised(private[0])
        run_ = stretches(private[0].silo("plain") / "canaries")
        assert not failed(rehearse(stage_of(study, "plain"), run_))
        monkeypatch.setattr(Trainer, "fit", fit)
        found = failed(rehearse(stage_of(study, "plain"), run_))
    reasons = {check.name: check.reason for check in found}
    assert set(reasons) == {"local-only state", "noisy sums alone"}
    assert "metrics" in reasons["local-only state"]
