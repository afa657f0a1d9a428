"""
The tutorial of a federation runs from start to end, with its coordinator, its gate and its three sites as real processes on the ports that
it names; and while they run, the commands that other pages show for sites and coordinators are executed in the same folder.
"""

import hashlib
import json
import shutil
from contextlib import ExitStack

import pytest

from tests.pages.test_howto_commands import shown
from tests.pages.tutorial import ROOT, run_blocks, run_command, words_of

TUTORIAL = ROOT / "docs" / "tutorials" / "federation.md"
PAGES = [ROOT / "deploy" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OF_SITES = ("fedtl silo", "fedtl server", "fedtl audit EXPORT")
# By the line of a page, in the order in which they are executed: the words of the page that stand for other ones here.
SITE = {"clinic": "plain", "hospitals.fab": "study.fab"}
NEW = {"clinic": "blurred"}  # it signs a second bundle
RUNNING = {
    "fedtl server status srv": {},
    "fedtl silo status clinic": SITE,
    "fedtl silo ledger clinic": SITE,
    "fedtl silo ledger clinic --export record.jsonl": SITE,
    "fedtl silo verify record.jsonl": {},
    "fedtl server rounds srv clinic --out rounds.json": SITE,
    "fedtl silo verify record.jsonl --seen rounds.json": {},
    "fedtl audit EXPORT": {"EXPORT": "record.jsonl"},
    "fedtl silo backup clinic clinic.backup": SITE,
    "fedtl server rounds srv clinic --out clinic-rounds.json": SITE,
    "fedtl silo adopt clinic hospitals.fab shared.safetensors --out model": SITE | {"model": "again"},
    "fedtl silo init clinic --name clinic --server fl.example.org:8443": {},
    "fedtl server admit srv clinic.pub": {"clinic.pub": "clinic/node.key.pub"},
    "fedtl server bundle srv hospitals.toml": {},
    "fedtl silo rehearse clinic hospitals.fab": NEW,
    "fedtl silo audit clinic": NEW,
    "fedtl silo approve clinic HASH": NEW,
    "fedtl silo check clinic": NEW,
    "fedtl silo approve clinic HASH --withdraw": NEW,
    "fedtl server start srv second": {"second": "hospitals --study second"},
    "fedtl server stop srv --study second": {},
    "fedtl server withdraw srv clinic": SITE,
    "fedtl server start srv study --study study-without-clinic": {},
    "fedtl server backup srv srv-2026-11-26.backup": {},
    "fedtl server stop srv": {},
}
STOPPED = {  # where the processes may not run
    "fedtl silo restore clinic clinic.backup --seen clinic-rounds.json": SITE,
    "fedtl server restore srv srv-2026-11-26.backup": {},
    "fedtl server init srv --host fl.example.org --listen 0.0.0.0:8443": {"srv": "another"},
}
SAME = {  # by the line of a page: that of the tutorial which is the same command
    "fedtl server run srv": "fedtl server run srv &",
    "fedtl silo run clinic": "fedtl silo run plain &",
    "fedtl server start srv hospitals": "fedtl server start srv study --wait 120",
}
PARSED = {  # what is only parsed (``tests/test_docs.py``), and why
    "fedtl server start srv third --now": "needs a second study that trains meanwhile; deployment/coordinator/test_queue.py starts one",
    "fedtl silo confirm clinic hospitals.fab": "needs rows that have changed; deployment/site/test_confirm_rows.py changes some",
    "fedtl silo confirm clinic hospitals.fab --new-dataset": "needs other rows; deployment/site/test_confirm_rows.py reads some",
    "fedtl silo backup clinic clinic-2026-11-26.backup": "the same as with clinic.backup",
    "fedtl silo restore clinic clinic-2026-11-26.backup --seen clinic-rounds.json": "the same as with clinic.backup",
}
SECOND = 'rounds = 1\nminimum_silos = 3\n[data]\nsource = "digits"\n[model]\nname = "mlp"\n[privacy]\nepsilon = 3.0\n'
SECOND += '[request]\nby = "Example University"\npurpose = "a test"\n'


def test_every_command_of_a_site_or_coordinator_is_executed_or_has_a_reason():
    listed = {line for line in shown(PAGES) if line.startswith(OF_SITES)}
    tutorial, known = shown([TUTORIAL]), RUNNING.keys() | STOPPED.keys() | SAME.keys() | PARSED.keys()
    assert listed - tutorial - known == set()
    assert known <= listed
    assert set(SAME.values()) <= tutorial


def execute(line, words, folder):
    hospitals = folder / "srv" / "bundles" / "hospitals" / "hospitals.fab"
    if hospitals.exists() and not (folder / "hospitals.fab").exists():
        shutil.copy(hospitals, folder)
    words = dict(words)
    if "HASH" in line:
        words["HASH"] = hashlib.sha256(hospitals.read_bytes()).hexdigest()
    return run_command(" ".join(words.get(word, word) for word in line.split(" ")), folder)


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What the page shows and what its commands printed; and by line, what the other commands printed."""
    folder = tmp_path_factory.mktemp("federation")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as running:
        patch.chdir(folder)
        tutorial = list(run_blocks(TUTORIAL.read_text(), folder, running))
        (folder / "hospitals.toml").write_text(SECOND)
        shutil.copy(folder / "srv" / "bundles" / "study" / "study.fab", folder)
        shutil.copy(folder / "srv" / "studies" / "study" / "shared.safetensors", folder)
        others = {line: execute(line, words, folder) for line, words in RUNNING.items()}
        running.close()
        others |= {line: execute(line, words, folder) for line, words in STOPPED.items()}
        yield folder, tutorial, others


@pytest.mark.slow
def test_the_tutorial_prints_what_it_shows(printed):
    _, tutorial, _ = printed
    assert tutorial
    for block, output in tutorial:
        assert words_of(block.text) == words_of(output)


@pytest.mark.slow
def test_commands_of_other_pages_do_what_they_say(printed):
    """None failed, or the fixture would have; these are the files that they name and what they must print."""
    folder, _, others = printed
    files = (
        "record.jsonl",
        "clinic.backup",
        "srv-2026-11-26.backup",
        "another/server.toml",
        "again/result.json",
    )
    assert [name for name in files if not (folder / name).is_file()] == []
    for line, words in (
        ("fedtl server status srv", "site plain: registered"),
        ("fedtl silo status clinic", "updates  2"),
        ("fedtl silo check clinic", "connection: localhost:8443 answers"),
        ("fedtl silo rehearse clinic hospitals.fab", 'May blurred take part in the study "hospitals"?'),
        ("fedtl silo audit clinic", "No check failed."),
        ("fedtl server withdraw srv clinic", "its updates counted in rounds 1, 2"),
    ):
        assert words in others[line]
    assert json.loads((folder / "rounds.json").read_text())["studies"]["study"]["counted"] == [1, 2]
