"""History and checkpoint survive a kill at any moment."""

import stat

import pytest
import torch

from fedtl.errors import ConfigError
from fedtl.federation.round_log import RoundLog, left_out_reasons
from fedtl.federation.rounds import ServerState
from fedtl.results.run import HistoryLine


def line(number, **left_out):
    return HistoryLine(number, 0.5, {"a": {"loss": 1.0}}, left_out, 10, 20)


def state(number):
    return ServerState(number, {"w": torch.full((2,), float(number))}, {"m": 1})


def test_the_last_checkpoint_and_its_lines_are_what_remains(tmp_path):
    log = RoundLog(tmp_path)
    assert log.resume() is None
    for number in (1, 2):
        log.append(line(number))
        log.save(state(number), own=[number])
    log.append(line(3))  # killed before its checkpoint
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"round": 4, "sec')  # killed while it wrote
    (tmp_path / "checkpoint" / ".state.pt.71.new").write_bytes(b"killed while it wrote")
    assert [one.round for one in log.lines()] == [1, 2, 3]
    checkpoint = RoundLog(tmp_path).resume()
    assert checkpoint.server.round == 2
    assert torch.equal(checkpoint.server.shared["w"], state(2).shared["w"])
    assert checkpoint.server.memory == {"m": 1}
    assert checkpoint.extra == {"own": [2]}
    assert log.lines() == [line(1), line(2)]
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["state.pt"]


def test_only_the_owner_reads_private_files(tmp_path):
    log, files = RoundLog(tmp_path, private=True), ("history.jsonl", "checkpoint/state.pt")
    log.append(line(1))
    log.save(state(1))
    written = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in files]
    log.resume()  # writes the history again
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in files] == written == [0o600, 0o600]


def test_a_damaged_checkpoint_is_named(tmp_path):
    log = RoundLog(tmp_path)
    log.save(state(1))
    (tmp_path / "checkpoint" / "state.pt").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"state\.pt"):
        log.resume()


def test_reasons_are_grouped_by_silo():
    lines = [line(1, a="late", b="refused"), line(2), line(3, a="not finite")]
    assert left_out_reasons(lines) == {
        "a": ("round 1: late", "round 3: not finite"),
        "b": ("round 1: refused",),
    }
