"""
What a process remembers of a ledger changes no answer: whatever is done to the files, it reads the same state, or raises the same error,
as a process that remembers nothing.
"""

import json
import os
import shutil
import sqlite3
from contextlib import closing, contextmanager, suppress
from hashlib import sha256
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtl.errors import FedTLError, LedgerDamaged
from fedtl.privacy import chain_database, hash_chain, ledger_state
from fedtl.privacy.budget import Budget
from fedtl.privacy.chain_memo import ChainMemo
from fedtl.privacy.ledger_reading import read_state, verify_ledger
from tests.privacy.ledger.ledgers import lines, opened, run, sql, state

MEMOS = ((hash_chain, "_IN_PLACE"), (ledger_state, "_STATES"))


@contextmanager
def nothing_remembered():
    with patch.object(*MEMOS[0], ChainMemo()), patch.object(*MEMOS[1], ChainMemo()):
        yield


def answer(act):
    try:
        return act()
    except FedTLError as error:
        return type(error), str(error)


def answers(path):
    """What this process says about each name, and about all of the file."""
    acts = [lambda name=name: read_state(path, name) for name in ("scans", "other")]
    return [answer(act) for act in (*acts, lambda: verify_ledger(path))]


def tip_of(path):
    return path.with_name(f"{path.name}.tip")


def read_lines(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT line, hash FROM lines ORDER BY number").fetchall()


def write_lines(path, texts, chain="scans", first=0):
    """Write these lines, from the one at ``first`` on with hashes that are right."""
    digest = read_lines(path)[first - 1][1] if first else hash_chain.GENESIS
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM lines WHERE number > ?", (first,))
        for text in texts[first:]:
            digest = sha256(f"{digest}{text}".encode()).hexdigest()
            connection.execute(
                "INSERT INTO lines (chain, line, hash) VALUES (?, ?, ?)", (chain, text, digest)
            )
        connection.commit()
    return len(texts), digest


CHANGES = {"epsilon": 5.0, "chain": "other", "number": 3, "what": "budget", "round": 1, "study": "b"}
Attack = st.one_of(
    st.tuples(st.sampled_from(["text of", "delete", "hash", "cut"]), st.integers(0, 7), st.integers(0, 7)),
    st.tuples(
        st.sampled_from(["rewrite", "rewrite and seal"]), st.integers(0, 7), st.sampled_from(list(CHANGES))
    ),
    st.tuples(st.sampled_from(["rename", "rename and seal", "older tip", "no tip"]), st.integers(0, 7), st.none()),
)  # fmt: skip


def attack(path, how, at, with_):
    """Do to the files what somebody may do who has them."""
    entries = read_lines(path)
    texts, tip = [text for text, _ in entries], tip_of(path)
    ends, chain = None, "scans"
    if how == "text of":
        sql(
            path,
            f"UPDATE lines SET line = (SELECT line FROM lines WHERE number = {with_ + 1}) WHERE number = {at + 1}",
        )
    elif how == "hash":
        sql(
            path,
            f"UPDATE lines SET hash = (SELECT hash FROM lines WHERE number = {with_ + 1}) WHERE number = {at + 1}",
        )
    elif how in ("delete", "cut"):
        sql(path, f"DELETE FROM lines WHERE number {'>=' if how == 'cut' else '='} {at + 1}")
    elif how.startswith("rewrite"):
        line = json.loads(texts[at]) | {with_: CHANGES[with_]}
        texts[at] = json.dumps(line, sort_keys=True, separators=(",", ":"))
        ends = write_lines(path, texts, first=at)
    elif how.startswith("rename"):
        chain, ends = "other", write_lines(path, texts, "other")
    elif how == "older tip":
        tip.write_text(json.dumps({"scans": [at + 1, entries[at][1]]}))
    else:
        tip.unlink()
    if how.endswith("seal"):
        tip.write_text(json.dumps({chain: ends}))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A ledger of eight lines: a study of three rounds."""
    path = tmp_path_factory.mktemp("whole") / "ledger.sqlite"
    for number in (1, 2, 3):
        run(opened(path), "a", number)
    return path


@settings(max_examples=60, deadline=None)
@given(Attack, st.booleans())
def test_an_attack_is_answered_as_by_a_process_that_remembers_nothing(whole, tmp_path_factory, what, again):
    path = tmp_path_factory.mktemp("attacked") / "ledger.sqlite"
    for file in (whole, tip_of(whole)):
        shutil.copy(file, path.with_name(file.name))
    before = answers(path)
    attack(path, *what)
    if again:  # what was read after the attack is remembered too
        answers(path)
    found = answers(path)
    with nothing_remembered():
        assert answers(path) == found
    for file in (whole, tip_of(whole)):
        shutil.copy(file, path.with_name(file.name))
    assert answers(path) == before


def test_an_altered_early_line_is_detected_whatever_is_remembered(whole, tmp_path):
    """As the test above for one line each, with what must come of it."""
    for at in range(8):
        path = tmp_path / str(at) / "ledger.sqlite"
        path.parent.mkdir()
        for file in (whole, tip_of(whole)):
            shutil.copy(file, path.with_name(file.name))
        assert state(opened(path)).charged_studies == {"a"}
        sql(path, f"UPDATE lines SET line = replace(line, '\"what\"', '\"What\"') WHERE number = {at + 1}")
        with pytest.raises(LedgerDamaged, match=f"line {at + 1} of scans"):
            opened(path)
        with pytest.raises(LedgerDamaged, match=f"line {at + 1} of scans"):
            verify_ledger(path)


def test_a_file_of_the_same_size_and_time_is_another_file(tmp_path):
    """Two ledgers with as many lines, bytes and the same times, of which one replaces the other, with its tip and without."""
    ours, theirs = tmp_path / "ours" / "ledger.sqlite", tmp_path / "theirs" / "ledger.sqlite"
    for path, study in ((ours, "a"), (theirs, "b")):
        run(opened(path), study, 1)
    assert state(opened(ours)).charged_studies == {"a"}
    mine, seen = tip_of(ours).read_bytes(), ours.stat()
    for file in (theirs, tip_of(theirs)):
        shutil.copy(file, ours.with_name(file.name))
        os.utime(ours, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert (ours.stat().st_size, ours.stat().st_mtime_ns) == (seen.st_size, seen.st_mtime_ns)
    assert state(opened(ours)).charged_studies == {"b"}
    tip_of(ours).write_bytes(mine)
    with pytest.raises(LedgerDamaged, match="scans was replaced"):
        opened(ours)


def test_lines_of_another_chain_with_right_hashes_are_refused(whole, tmp_path):
    """Somebody renames a dataset in both files, to give it a new budget: each line states the dataset that it is of."""
    path = tmp_path / "ledger.sqlite"
    shutil.copy(whole, path)
    ends = write_lines(path, [text for text, _ in read_lines(path)], "other")
    tip_of(path).write_text(json.dumps({"other": ends}))
    assert read_state(whole, "scans").charged_studies == {"a"}
    with pytest.raises(LedgerDamaged, match="line 1 of other"):
        read_state(path, "other")


def test_a_transaction_that_was_rolled_back_is_forgotten(path, ledger):
    run(ledger, "a", 1)
    before = state(ledger)
    with suppress(ZeroDivisionError), ledger._file.write("scans") as chain:
        chain.append("budget", epsilon=99.0, delta=1e-5)
        assert ledger_state.ledger_state(chain).budget.epsilon == 99.0
        raise ZeroDivisionError
    assert state(ledger) == before
    run(ledger, "a", 2)
    assert state(ledger).studies["a"].round == 2


def test_what_a_caller_does_to_a_state_is_not_remembered(ledger):
    run(ledger, "a", 1)
    for _ in range(2):
        found = state(ledger)
        assert (found.charged_studies, found.studies["a"].round) == ({"a"}, 1)
        assert (found.unconfirmed, sorted(found.kept)) == (set(), ["/ever", "/rows"])
        found.studies["a"].events, found.studies["a"].round, found.budget = (), 9, Budget(1.0, 1e-5)
        found.unconfirmed.add("bb")
        found.kept.clear()
        found.studies["b"] = found.studies["a"]


Entry = st.one_of(
    st.builds(lambda e: ("budget", {"epsilon": e, "delta": 1e-5}), st.floats(1, 9)),
    st.builds(lambda f: ("changed", {"before": "aa", "fingerprint": f}), st.sampled_from("bcd")),
    st.builds(lambda f: ("confirmed", {"fingerprint": f, "kept": {"/rows": f}}), st.sampled_from("bcd")),
    st.builds(
        lambda s, e: ("planned", {"study": s, "epsilon": e, "delta": 1e-6, "events": [[4.0, 1.0, 8]]}),
        *(st.sampled_from("ab"), st.floats(1, 9)),
    ),
    st.builds(
        lambda s, r, events: ("charged", {"study": s, "round": r, "task": f"t{r}", "events": events, "epsilon": r / 7}),
        *(st.sampled_from("ab"), st.integers(1, 9)),
        st.lists(st.sampled_from([[4.0, 1.0, 1], [2.5, 0.25, 3], [2.5, 0.5, 2]]), max_size=3),
    ),
    st.builds(
        lambda s, r: ("stored", {"study": s, "round": r, "reply": f"r{r}", "bytes": 3}),
        *(st.sampled_from("ab"), st.integers(1, 9)),
    ),
    st.just(("opened", {"epsilon": 9.0, "delta": 1e-5, "fingerprint": "aa"})),
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(Entry, st.booleans()), max_size=14))
def test_the_state_of_any_lines_is_what_all_of_them_add_up_to(entries):
    """Read after some of the lines, with what was remembered then; lines that make no ledger raise the same error."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for table in chain_database.TABLES:
            connection.execute(table)
        chain = hash_chain.WritableChain("scans", connection, lambda *_: None)
        chain.append("opened", epsilon=9.0, delta=1e-5, fingerprint="aa")
        for (what, content), read in entries:
            chain.append(what, **content)
            if read:
                found = answer(lambda: ledger_state.ledger_state(chain))
                with nothing_remembered():
                    assert answer(lambda: ledger_state.ledger_state(chain)) == found


def test_a_round_reads_only_new_lines(path, ledger, monkeypatch):
    """The work of one round does not grow with the rounds before it."""
    read = []
    for module, name in ((ledger_state, "parse_lines"), (hash_chain, "_place")):
        work = getattr(module, name)
        monkeypatch.setattr(module, name, lambda given, work=work: (read.append(given), work(given))[1])
    counts = []
    for number in range(1, 9):
        read.clear()
        run(ledger, "a", number)
        counts.append(sum(len(one) if isinstance(one, list) else 1 for one in read))
    assert len(lines(ledger)) == 18
    assert len(set(counts[1:])) == 1
    assert counts[1] <= 6


def test_the_chain_that_was_not_used_for_longest_is_dropped(monkeypatch):
    monkeypatch.setattr("fedtl.privacy.chain_memo.MAX_CHAINS", 2)
    memo, chains = ChainMemo(), [[("text", f"{number}")] for number in range(3)]
    for chain in (chains[0], chains[1], chains[0], chains[2]):
        memo.keep(chain, chain[0][1])
    assert [memo.longest(chain) and memo.longest(chain).value for chain in chains] == ["0", None, "2"]
    assert memo.longest([]) is None
    assert memo.longest([("text", "0"), ("more", "9")]).lines == 1
