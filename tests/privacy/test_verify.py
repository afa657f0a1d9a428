"""An exported ledger is recomputed: altered exports fail each check, and an unaltered one passes."""

import json
from hashlib import sha256

import pytest

from fedtl._util.files import write_json
from fedtl.audit.export import StudyCharge, audit_export
from fedtl.deployment.coordinator.site_rounds import SiteRounds, StudyRounds
from fedtl.deployment.site import egress_lines
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.paid import private_messages
from fedtl.deployment.site.verification import export_lines, verify_export, verify_home
from fedtl.errors import ConfigError, LedgerDamaged
from fedtl.messages import SpendEvent
from fedtl.privacy import accounting
from fedtl.privacy.hash_chain import GENESIS
from fedtl.privacy.ledger_lines import parse_lines
from fedtl.privacy.verify import find_faults, find_uncharged, walk_chain
from tests.deployment.site.sites import PRIVATE, Site
from tests.real_processes import fedtl_command


def faults(lines):
    return find_faults(parse_lines(lines))


def unpaid(sent, ledgers):
    messages = private_messages(egress_lines.parse_lines(sent))
    return find_uncharged(messages, {name: parse_lines(lines) for name, lines in ledgers.items()})


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    """Two private rounds at a site: the site, the lines of its ledger, and the export."""
    folder = tmp_path_factory.mktemp("site")
    site = Site(
        folder, dp_ready=True, policy__privacy=PRIVATE, policy__metrics=[], policy__share_row_count=False
    )
    for number in (1, 2):
        site.ask(site.task(number))
    path = folder / "export.jsonl"
    export_lines(site.home, path)
    ledger = [json.loads(json.loads(line)["line"]) for line in path.read_text().split("\n\n")[1].splitlines()]
    return site, ledger, path


def test_unaltered_export_passes(papers):
    site, ledger, path = papers
    facts = verify_export(path)
    assert facts.updates == 2
    assert facts.outside == facts.unpaid == []
    assert facts == verify_home(site.home)
    assert facts.lines == len([line for line in path.read_text().splitlines() if line])
    assert not faults(ledger)


@pytest.fixture
def rounds(papers, tmp_path):
    """What the coordinator has: two rounds of the study of the site ``of``, and perhaps more."""

    def write(site, counted=(1, 2)):
        study = papers[0].task(1).study
        write_json(
            tmp_path / "rounds.json", SiteRounds(site, {study: StudyRounds(counted, [], max(counted))})
        )
        return tmp_path / "rounds.json"

    return write


def test_a_record_whose_end_was_cut_off_is_shown_by_the_coordinators_rounds_alone(papers, rounds, tmp_path):
    site, _, path = papers
    whole, name = path.read_text(), site.home.settings.name
    record, ledger = whole.split("\n\n", 1)
    cut = tmp_path / "cut.jsonl"
    cut.write_text(
        "\n".join(record.splitlines()[:-2]) + "\n\n" + ledger
    )  # without the second round and its answer
    assert not verify_export(cut).faults
    said = fedtl_command("silo", "verify", cut).stderr
    assert "later lines" in said
    assert not verify_export(path, rounds(name)).faults
    said = fedtl_command("silo", "verify", path, "--seen", rounds(name)).stderr
    assert "holds every update" in said
    assert "later lines" not in said
    (lacking,) = verify_export(cut, rounds(name)).unrecorded
    assert "round 2" in lacking
    assert "NOT RECORDED" in fedtl_command("silo", "verify", cut, "--seen", rounds(name), code=3).stderr
    assert verify_home(site.home, rounds(name, (1, 2, 3))).unrecorded == [lacking.replace("2", "3", 1)]
    with pytest.raises(ConfigError, match="of site 'other'"):
        verify_export(path, rounds("other"))


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_file_without_a_record_is_no_proof(content, papers, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text(content)
    with pytest.raises(ConfigError, match="nothing to verify"):
        verify_export(empty)
    fedtl_command("silo", "verify", empty, code=2)


def test_of_a_new_site_nothing_is_claimed(tmp_path):
    home = Home.create(tmp_path / "new", "new", "localhost:1")
    said = fedtl_command("silo", "verify", home.path).stderr
    assert "nothing to verify" in said
    assert "was charged" not in said


def plan_and_round(epsilon, events):
    """The lines of a ledger with one round of these events, which states this epsilon."""
    contents = [
        {"what": "opened", "epsilon": 9.0, "delta": 1e-5, "fingerprint": "aa"},
        {"what": "planned", "study": "a", "epsilon": 8.0, "delta": 1e-6, "events": [[5.0, 0.3, 400]]},
        {"what": "charged", "study": "a", "round": 1, "task": "t", "events": events, "epsilon": epsilon},
    ]
    return [{"chain": "scans", "number": n, "at": "", **content} for n, content in enumerate(contents, 1)]


def test_a_round_costs_what_it_does_on_the_grid_of_its_plan_or_as_earlier_versions_wrote_on_its_own():
    own = accounting.epsilon([SpendEvent(5.0, 0.3, 4)], 1e-6)
    of_plan = accounting.epsilon([SpendEvent(5.0, 0.3, 4)], 1e-6, plan=[SpendEvent(5.0, 0.3, 400)])
    assert of_plan > own * (1 + 1e-5)
    assert not faults(plan_and_round(own, [[5.0, 0.3, 4]]))
    assert not faults(plan_and_round(of_plan, [[5.0, 0.3, 4]]))
    for wrong in (own * (1 - 1e-5), (own + of_plan) / 2, of_plan * (1 + 1e-5), 0.0):
        (fault,) = faults(plan_and_round(wrong, [[5.0, 0.3, 4]]))
        assert "the events so far cost" in fault


def test_events_that_no_plan_has_are_computed_on_a_grid_that_fits_them(monkeypatch):
    """The grid of the plan is fine, and on it losses as large as these do not fit into memory."""
    plans, compute = [], accounting.epsilon
    monkeypatch.setattr(
        accounting, "epsilon", lambda *a, plan=None: plans.append(plan) or compute(*a, plan=plan)
    )
    found = faults(plan_and_round(1.0, [[0.02, 0.5, 50]]))
    assert any("more steps than the plan has" in fault for fault in found)
    assert plans[-1] == [SpendEvent(0.02, 0.5, 50)]


def changed(ledger, what, **content):
    last = max(at for at, line in enumerate(ledger) if line["what"] == what)
    return [{**line, **content} if at == last else line for at, line in enumerate(ledger)]


@pytest.mark.parametrize(
    ("what", "content", "says"),
    [
        ("charged", {"epsilon": 0.5}, "epsilon 0.5 is written"),
        ("charged", {"events": [[0.5, 1.0, 3]]}, "events so far cost"),
        (
            "charged",
            {"events": [[1000.0, 1.0, 1]]},
            "more steps than the plan has",
        ),
        ("planned", {"events": [[0.5, 1.0, 3]]}, "the plan states epsilon"),
        ("opened", {"delta": 1e-12}, "exceeds the lifetime budget"),
        ("planned", {"epsilon": 0.1}, "exceeds the plan's 0.1"),
        ("planned", {"epsilon": 0.1}, "the plan states epsilon 0.1"),
        ("opened", {"epsilon": 0.1}, "lifetime budget of 0.1"),
        ("planned", {"study": "another"}, "was charged and never planned"),
    ],
)
def test_wrong_arithmetic_is_found(papers, what, content, says):
    found = faults(changed(papers[1], what, **content))
    assert any(says in text for text in found), found


def test_whole_plan_counts_before_its_first_round():
    known = {"chain": "scans", "at": ""}
    opened = known | {"what": "opened", "number": 1, "epsilon": 5.0, "delta": 1e-5, "fingerprint": "aa"}
    plans = [
        known
        | {
            "what": "planned",
            "number": number,
            "study": name,
            "epsilon": 4.0,
            "delta": 1e-6,
            "events": [[4.0, 1.0, 8]],
        }
        for number, name in ((2, "a"), (3, "b"))
    ]
    assert faults([opened, plans[0]]) == []
    (said,) = faults([opened, *plans])
    assert said.startswith("ledger line 3: ")
    assert "epsilon 8 and delta 2e-06" in said


def test_change_of_rows_that_were_never_confirmed_is_found(papers):
    ledger = papers[1]
    known = ledger[0]["fingerprint"]
    header = {"chain": "plain", "at": "", "number": len(ledger) + 1}
    line = header | {"what": "changed", "before": known, "fingerprint": "ff"}
    assert faults([*ledger, line]) == []
    assert "last confirmed rows" in faults([*ledger, {**line, "before": "ee"}])[0]
    assert "changed" in faults([*ledger, line, header | {"what": "confirmed", "fingerprint": "ff"}, line])[0]


def test_uncharged_updates_are_found(papers):
    site, ledger, _ = papers
    sent = [line for line in site.lines() if line["what"] == "sent"]
    assert unpaid(sent, {"plain": ledger}) == []
    assert (
        "was never charged" in unpaid(sent, {"plain": [line for line in ledger if line.get("round") != 2]})[0]
    )
    assert "was never charged" in unpaid(sent, {})[0]
    assert "for another task" in unpaid([{**sent[0], "task": "x"}], {"plain": ledger})[0]
    assert "was never charged" in unpaid(sent, {"another": ledger})[0]  # charged to other people's rows
    before = [{key: value for key, value in line.items() if key != "dataset"} for line in sent]
    assert unpaid(before, {"another": ledger}) == []  # an earlier fedtl did not say whose rows
    assert unpaid([{**sent[0], "task": "x", "private": False}], {}) == []


def test_altered_export_is_refused(papers, tmp_path):
    _, _, path = papers
    record, ledger = path.read_text().split("\n\n")
    altered = tmp_path / "altered.jsonl"
    altered.write_text(record + "\n\n" + ledger.replace('\\"round\\":2', '\\"round\\":3'))
    assert altered.read_text() != path.read_text()
    with pytest.raises(LedgerDamaged, match="ledger: line 5"):
        verify_export(altered)
    first = json.loads(ledger.splitlines()[0])
    assert sha256(f"{'0' * 64}{first['line']}".encode()).hexdigest() == first["hash"]


def test_auditor_needs_only_the_export(papers, tmp_path):
    _, ledger, path = papers
    found = audit_export(path)
    assert found.violations == ()
    assert found.updates == 2
    (name,) = found.studies
    last = [line for line in ledger if line["what"] == "charged"][-1]
    delta = next(line["delta"] for line in ledger if line["what"] == "planned")
    plan = next(line for line in ledger if line["what"] == "planned")
    assert plan["epsilon"] > 1.2 * last["epsilon"]  # two of four rounds
    assert found.studies[name] == StudyCharge(plan["epsilon"], delta, last["epsilon"], 2)
    second = next(check for check in found.checks if "Opacus" in check.name)
    assert second.value == pytest.approx(plan["epsilon"], abs=0.02)
    assert {check.name for check in found.checks} >= {
        "chain",
        "approval",
        "ledger arithmetic",
        "link to messages",
    }
    record_, book = path.read_text().split("\n\n")
    for name, text in {
        "chain": record_ + "\n\n" + book.replace('\\"round\\":2', '\\"round\\":3'),
        "link to messages": record_ + "\n\n" + rechained(book, lambda line: {**line, "task": "x"} if "task" in line else line),
        "ledger arithmetic": record_ + "\n\n" + rechained(book, lambda line: {**line, "epsilon": 0.01} if line["what"] == "charged" else line),
        "approval": rechained(record_, lambda line: {**line, "tensors": []} if line["what"] == "approved" else line) + "\n\n" + book,
    }.items():  # fmt: skip
        odd = tmp_path / "odd.jsonl"
        odd.write_text(text)
        assert any(f": {name}: " in line for line in audit_export(odd).violations), name


def rechained(text, change):
    """Change the lines and compute their hashes anew, as somebody who knows the format can."""
    last, found = "0" * 64, []
    for entry in text.splitlines():
        line = json.dumps(change(json.loads(json.loads(entry)["line"])))
        last = sha256(f"{last}{line}".encode()).hexdigest()
        found.append(json.dumps({"line": line, "hash": last}))
    return "\n".join(found)


def test_the_command_audits_an_export(papers, tmp_path):
    _, _, path = papers
    sound = fedtl_command("audit", path)
    assert "up to round 2" in sound.stdout
    assert "nothing was measured" in sound.stderr
    odd = tmp_path / "odd.jsonl"
    odd.write_text(path.read_text().replace("charged", "chargee"))
    assert "refuted: " in fedtl_command("audit", odd, code=5).stderr
    fedtl_command("audit", tmp_path / "none.jsonl", code=2)


@pytest.mark.parametrize("text", ["", "no json", "[1]", "7", "{}", '{"number": 2}', '{"number": "1"}'])
def test_text_with_a_correct_hash_may_not_be_a_line(text):
    """Whoever writes an export can compute its hashes."""
    digest = sha256(f"{GENESIS}{text}".encode()).hexdigest()
    assert walk_chain([(text, digest)]) == ([], GENESIS, 1)
