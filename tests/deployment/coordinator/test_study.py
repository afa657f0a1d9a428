"""A study at the coordinator: a checkpoint after each round, from which it resumes to the same bits."""

import json
import stat
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from fedtl._util.files import write_json
from fedtl.deployment.coordinator import asking as asking_files
from fedtl.deployment.coordinator import host, verdicts
from fedtl.deployment.coordinator.asking import asked_until, rests_until, verdicts_of
from fedtl.deployment.coordinator.host import host_study
from fedtl.deployment.coordinator.study import STOPPED_FILE, HostedStudy, why_stopped
from fedtl.deployment.coordinator.study_files import StudyPlan
from fedtl.errors import ConfigError, NotEnoughSilos
from fedtl.federation.limits import UpdateLimits
from fedtl.federation.policy import MEANING, Code
from fedtl.federation.rounds import FederationConfig
from fedtl.messages import Refusal, SiloVerdict, Update
from fedtl.methods.feddf import DistilOnServer
from fedtl.methods.fedmd import MeanAnswers
from fedtl.methods.server import ServerStep
from fedtl.methods.wire import Wire
from fedtl.models.roles import Role
from fedtl.privacy import taint_metadata
from fedtl.privacy.taint import Label
from fedtl.results.comparison import Verdict
from fedtl.results.run import HistoryLine

START = {"body.w": torch.zeros(3), "body.v": torch.ones(2, 2)}
ROLES = dict.fromkeys(START, Role.BODY)


def study(path, private=None, rounds=4, minimum_silos=1):
    server = ServerStep("adam", settings={"lr": 0.1})  # it has state, so that a test sees where that is lost
    config = FederationConfig("s", 0, rounds, server, minimum_silos=minimum_silos)
    facts = {"bundle_name": "b", "deadline": 1.0, "tries": 2, "bundle": "h", "plan": "p", "private": private}
    return HostedStudy.create(path / "s", StudyPlan(config, ROLES, **facts), START)


def test_a_plan_says_how_weights_are_sent_where_they_are_compressed():
    for wire in (Wire(), Wire("top-k", 0.05)):
        limits = UpdateLimits(max_norm=3.0) if wire.compresses else UpdateLimits()
        config = FederationConfig("s", 0, 4, ServerStep(), wire=wire, limits=limits)
        plan = StudyPlan(config, ROLES, "b", deadline=1.0, tries=2, bundle="h", plan="p")
        content = json.loads(json.dumps(plan.to_json()))
        assert (
            ("wire" in content) is ("limits" in content) is wire.compresses
        )  # files of earlier versions have no such key
        assert StudyPlan.from_json(content) == plan


class Silos:
    """Two silos whose updates depend on the round. In each round of ``fails`` both refuse once; in ``dies`` the server is interrupted."""

    def __init__(self, fails=(), dies=0):
        self.fails, self.dies, self.asked = list(fails), dies, []

    def away(self):
        return {"c": "c: is not connected"}

    def silos(self):
        return ["a", "b"]

    def ask(self, task, silos):
        self.asked.append(task.round)
        if task.round == self.dies:
            raise KeyboardInterrupt
        if task.round in self.fails:
            self.fails.remove(task.round)
            return [Refusal(name, task.round, f"{name}: declined") for name in silos]
        generator = torch.Generator().manual_seed(task.round)
        delta = {name: torch.randn(its.shape, generator=generator) for name, its in task.shared.items()}
        return [Update(name, task.round, delta, 1.0, {"accuracy": 0.5}) for name in silos]


class Answering(Silos):
    """
    They say after the last round whether joining helped: in each turn that they are asked, what ``says`` has for them, and nothing
    where it has no more. ``sent``: the sites of each question.
    """

    def __init__(self, **says):
        super().__init__()
        self.says, self.waiting, self.sent = {name: list(turns) for name, turns in says.items()}, set(), []

    def questions(self, question):
        self.question = question
        return self

    def send(self, silos, seconds):
        self.sent.append(list(silos))
        self.seconds = seconds
        self.waiting |= set(silos)
        return []

    def receive(self):
        come = [name for name in sorted(self.waiting) if self.says[name]]
        self.waiting -= set(come)
        return [self.answer(name, self.says[name].pop(0)) for name in come]

    def answer(self, name, word):
        return SiloVerdict(name, word) if isinstance(word, Verdict) else Refusal(name, 5, f"{name}: {word}")


RESTING, DECLINED = (f"{MEANING[code]} ({code})" for code in (Code.HOURS, Code.DECLINED))


class Clock:
    """Of the verdicts: it moves when somebody sleeps. ``during`` is called each time, before that."""

    def __init__(self, monkeypatch, during=lambda: None):
        self.now, self.during, self.began = 1_800_000_000.0, during, 1_800_000_000.0
        fake = SimpleNamespace(time=lambda: self.now, monotonic=lambda: self.now, sleep=self.sleep)
        for module in (verdicts, asking_files):
            monkeypatch.setattr(module, "time", fake)

    def sleep(self, seconds):
        self.during()
        self.now += seconds

    @property
    def past(self):
        return self.now - self.began


def asking(its, **times):
    """The study, whose plan asks for verdicts."""
    write_json(its.path / "plan.json", replace(its.plan, verdict=True, **times).to_json())
    return its


def go(its, silos):
    (its.path / STOPPED_FILE).unlink(missing_ok=True)  # as `server start` does

    def connect(plan, former):
        silos.former = sorted(former)
        return silos

    return host_study(its, connect)


def shared(its):
    return its.state().shared


def test_a_killed_study_resumes_to_the_same_bits(tmp_path):
    whole, cut = study(tmp_path / "whole"), study(tmp_path / "cut")
    go(whole, Silos())
    with pytest.raises(KeyboardInterrupt):
        go(cut, Silos(dies=3))
    with (cut.path / "history.jsonl").open("a") as file:
        file.write('{"round": 3, "torn": ')
    again = Silos()
    result = go(study(tmp_path / "cut"), again)
    assert again.asked == [3, 4]
    assert [line.round for line in cut.log.lines()] == [1, 2, 3, 4]
    assert all(torch.equal(shared(whole)[name], shared(cut)[name]) for name in START)
    assert result.silos == {"a": 4, "b": 4}
    for path in [cut.path, *cut.path.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize(("private", "label"), [(None, None), (False, Label.LOCAL), (True, Label.RELEASED)])
def test_the_shared_model_has_provenance_labels(private, label, tmp_path):
    its = study(tmp_path, private)
    go(its, Silos())
    found = taint_metadata.read_labels(its.path / "shared.safetensors")
    assert found == (None if label is None else dict.fromkeys(START, label))


def test_a_round_without_a_checkpoint_is_repeated(tmp_path):
    its = study(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        go(its, Silos(dies=3))
    its.log.append(HistoryLine(3, 0.0, {}, {}, 0, 0))
    silos = Silos()
    go(its, silos)
    assert silos.asked == [3, 4]
    assert [line.round for line in its.log.lines()] == [1, 2, 3, 4]


def test_a_round_with_too_few_replies_is_tried_again_and_then_stops_the_study(tmp_path):
    its, silos = study(tmp_path), Silos(fails=[2])
    go(its, silos)
    assert silos.asked == [1, 2, 2, 3, 4]
    other = study(tmp_path / "other")
    with pytest.raises(NotEnoughSilos):
        go(other, Silos(fails=[2, 2]))
    assert "a: declined" in (other.path / STOPPED_FILE).read_text()
    assert other.state().round == 1
    assert not other.done


def test_sites_that_are_away_are_named_and_those_of_the_last_round_awaited(tmp_path):
    its, silos = study(tmp_path), Silos()
    with pytest.raises(KeyboardInterrupt):
        go(its, Silos(dies=3))
    result = go(its, silos)
    assert silos.former == ["a", "b"]
    assert [line.left_out for line in its.log.lines()] == [{"c": "c: is not connected"}] * 4
    assert result.left_out["c"][3] == "round 4: c: is not connected"


@pytest.mark.parametrize("private", [False, True])
def test_charges_of_a_round_that_is_not_used_are_named(private, tmp_path):
    its = study(tmp_path, private, minimum_silos=3)
    with pytest.raises(NotEnoughSilos):
        go(its, Silos())
    why = (its.path / STOPPED_FILE).read_text()
    assert "not used: the updates of a, b" in why
    charged = "a, b" if private else "those of them that train privately by their own policy"
    assert f"charged at {charged};" in why


def test_the_waiting_times_are_not_part_of_a_study(tmp_path):
    its = study(tmp_path)
    patient = replace(its.plan, deadline=99.0, tries=7, grace=5.0)
    assert HostedStudy.create(its.path, patient, START).plan == patient
    with pytest.raises(ConfigError, match="--study NAME"):
        HostedStudy.create(its.path, replace(patient, plan="another"), START)


def test_another_study_of_the_same_name_is_refused(tmp_path):
    study(tmp_path)
    study(tmp_path)
    with pytest.raises(ConfigError, match="--study NAME"):
        study(tmp_path, rounds=5)


def test_the_keys_of_a_result(tmp_path):
    go(study(tmp_path), Silos())
    assert set(json.loads((tmp_path / "s" / "result.json").read_text())) == {
        *("study", "rounds", "silos", "left_out", "bytes_up", "bytes_down", "seconds")
    }


def test_the_result_is_there_before_the_verdicts_which_are_added_as_they_come(tmp_path, monkeypatch):
    """The sites get the shared tensors of the result, as the task after the last round."""
    its = study(tmp_path)
    assert "verdict" not in its.plan.to_json()  # as files of earlier versions
    asking(its)
    assert StudyPlan.from_json(json.loads(json.dumps(its.plan.to_json()))) == its.plan
    assert verdicts_of(its) == {}
    silos, seen = Answering(a=[], b=[DECLINED]), []

    def look():
        seen.append(verdicts_of(its))
        if len(seen) == 3:
            silos.says["a"] = [Verdict.GAINS]

    clock = Clock(monkeypatch, look)
    result = go(its, silos)
    nothing = "a: has not answered yet"
    assert seen == [{"a": nothing, "b": f"b: {DECLINED}"}] * 3
    assert verdicts_of(its) == {"a": "gains", "b": f"b: {DECLINED}"}
    assert result == its.result
    assert silos.sent == [["a", "b"]]
    assert clock.past < 10
    assert (silos.question.round, silos.question.rounds) == (5, 4)
    assert silos.seconds == 1.0  # the deadline, because the rounds took less
    assert all(torch.equal(silos.question.shared[name], shared(its)[name]) for name in START)
    assert asked_until(its) is None


def test_a_site_outside_its_hours_is_asked_again_while_another_one_hangs(tmp_path, monkeypatch):
    its = asking(study(tmp_path), deadline=43200.0, ask_again=900.0, verdict_days=0.05)
    silos = Answering(a=[], b=[RESTING] * 3 + [Verdict.AS_GOOD])
    clock = Clock(monkeypatch)
    noted = []
    clock.during = lambda: noted or noted.append(verdicts_of(its)["b"])
    go(its, silos)
    assert silos.sent.count(["b"]) == 3
    assert noted == [f"b: {RESTING}"]
    assert verdicts_of(its)["b"] == "as good"
    assert (
        verdicts_of(its)["a"] == "a: has not answered yet"
    )  # this fake never says that the time of one question is over
    assert 4320 <= clock.past < 4340


@pytest.mark.parametrize(
    "reason", ["is not connected", "no reply within 9 s", f"failed ({Code.FAILED})", RESTING]
)
def test_a_site_that_does_not_answer_is_asked_until_it_is_too_late(reason, tmp_path, monkeypatch):
    its = asking(study(tmp_path), ask_again=3600.0, verdict_days=0.5)
    silos = Answering(a=[Verdict.LOSES], b=[reason] * 99)
    clock = Clock(monkeypatch)
    go(its, silos)
    assert len(silos.sent) == 1
    while (again := rests_until(its)) is not None:  # no process runs until then
        assert 3590 <= again - clock.now <= 3600
        clock.now = again
        go(its, silos)
    assert len(silos.sent) == 12
    assert 43200 <= clock.past <= 43210
    assert verdicts_of(its) == {"a": "loses", "b": f"b: {reason}"}
    again = Answering(a=[], b=[])
    go(its, again)
    assert (again.asked, again.sent) == ([], [])


def test_a_server_that_ends_before_the_verdicts_goes_on_asking_who_has_not_answered(tmp_path, monkeypatch):
    its = asking(study(tmp_path))
    silos = Answering(a=[Verdict.GAINS], b=[])
    Clock(monkeypatch, lambda: pytest.fail("the server ends here"))
    with pytest.raises(pytest.fail.Exception):
        go(its, silos)
    assert its.done
    assert its.result.silos == {"a": 4, "b": 4}
    assert asked_until(its) is not None
    assert verdicts_of(its) == {"a": "gains", "b": "b: has not answered yet"}
    until = asked_until(its)
    clock = Clock(monkeypatch)
    clock.now += 3600
    later = Answering(b=[Verdict.UNCLEAR])
    monkeypatch.setattr(later, "silos", lambda: pytest.fail("no round is run"))
    assert asked_until(its) == until
    go(its, later)
    assert later.sent == [["b"]]
    assert verdicts_of(its) == {"a": "gains", "b": "unclear"}
    assert asked_until(its) is None


def test_a_round_waits_for_sites_that_do_not_train_at_this_hour(tmp_path, monkeypatch):
    """No try is used up, however often; a refusal for another reason still uses one."""
    its, silos, waits = study(tmp_path, minimum_silos=2), Silos(), []
    monkeypatch.setattr(host.time, "sleep", waits.append)
    ask = silos.ask

    def at_night(task, names):
        replies = ask(task, names)
        resting = Refusal("b", task.round, f"b: {RESTING}")
        return [replies[0], resting] if len(waits) < 7 else replies

    silos.ask = at_night
    go(its, silos)
    assert waits == [its.plan.ask_again] * 7
    assert silos.asked == [1] * 8 + [2, 3, 4]


@pytest.mark.parametrize(
    "step", [ServerStep("trimmed", share=0.2), DistilOnServer(steps=7), MeanAnswers("agreement")]
)
def test_a_plan_says_which_kind_of_step_the_server_takes(step):
    config = FederationConfig("s", 0, 4, step)
    plan = StudyPlan(config, ROLES, "b", deadline=1.0, tries=2, bundle="h", plan="p")
    content = json.loads(json.dumps(plan.to_json()))
    assert content["server"]["kind"] in ("step", "distil", "answers")
    assert StudyPlan.from_json(content) == plan
    content["server"]["kind"] = "code"
    with pytest.raises(KeyError, match="code"):
        StudyPlan.from_json(content)


def test_a_plan_of_an_earlier_version_has_a_plain_step():
    plan = StudyPlan(FederationConfig("s", 0, 4, ServerStep()), ROLES, "b", 1.0, 2, "h", "p")
    content = json.loads(json.dumps(plan.to_json()))
    del content["server"]["kind"], content["ask_again"], content["verdict_days"]
    assert StudyPlan.from_json(content) == plan


@pytest.mark.parametrize("checkpoint", [b"damaged", None])
def test_a_study_whose_checkpoint_is_lost_is_stopped_at_once_and_keeps_its_history(tmp_path, checkpoint):
    """Started anew from the first round, every site would refuse, because its rounds are over."""
    its = study(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        go(its, Silos(dies=3))
    path = its.path / "checkpoint" / "state.pt"
    path.write_bytes(checkpoint) if checkpoint else path.unlink()
    silos = Silos()
    with pytest.raises(ConfigError, match="restore"):
        go(its, silos)
    assert silos.asked == []
    assert ("state.pt is damaged" if checkpoint else "ends with round 2") in why_stopped(its)
    assert [line.round for line in its.log.lines()] == [1, 2]


def test_a_study_that_is_stopped_asks_for_no_further_round(tmp_path):
    """Also where the SuperLink does not answer, so that its ServerApp is not ended."""
    its, silos = study(tmp_path), Silos()

    def stop(finished):
        if finished.after.round == 2:
            (its.path / STOPPED_FILE).write_text("by the coordinator\n")

    with pytest.raises(ConfigError, match="s was stopped: by"):
        host_study(its, lambda plan, former: silos, stop)
    assert silos.asked == [1, 2]
    assert go(its, silos).rounds == 4


def test_a_study_stops_before_a_round_for_which_the_disk_has_no_room(tmp_path, monkeypatch):
    """Before sites are asked, and charged for updates that cannot be stored."""
    its, silos = study(tmp_path), Silos()
    full = SimpleNamespace(free=100 << 20)
    monkeypatch.setattr("fedtl.deployment.running.shutil.disk_usage", lambda path: full)
    with pytest.raises(ConfigError, match="make room"):
        go(its, silos)
    assert silos.asked == []
    full.free = 300 << 20
    ask = silos.ask
    silos.ask = lambda task, names: (
        setattr(full, "free", (300 if task.round < 2 else 100) << 20),
        ask(task, names),
    )[1]
    with pytest.raises(ConfigError, match="make room"):
        go(its, silos)
    assert silos.asked == [1, 2]
    assert "a round needs 268,435,456; make room" in (its.path / STOPPED_FILE).read_text()
    full.free, silos.ask = 300 << 20, ask
    go(its, silos)
    assert its.done
