"""All engines give the same numbers in whatever order silos answer; tests/methods/test_promises.py runs every method."""

import pytest
import torch

from fedtl.simulation.processes import Processes
from fedtl.simulation.serial import Serial
from fedtl.simulation.stacked import Stacked
from tests.experiment.runs import ENGINES, do, numbers, own_validation, same, small, tensors
from tests.experiments import MIXED


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fedtl", "fedrep", pytest.param("fedavg", marks=pytest.mark.nightly)])
def test_processes_give_the_bits_of_serial(method, tmp_path):
    home = ['data.silos=["plain", "inverted", "faint"]']
    home += (*MIXED, "wire.dtype=int8") if method == "fedtl" else ()
    one = do(tmp_path / "serial", small(f"method.name={method}", *home))
    for workers in (2, 3) if method == "fedrep" else (2,):
        path = tmp_path / str(workers)
        engine = ["engine.name=processes", f"engine.workers={workers}"]
        many = do(path, small(f"method.name={method}", *home, *engine))
        assert many["workers"] == workers
        assert numbers(many) == numbers(one)
        assert same(tensors(tmp_path / "serial"), tensors(path))


@pytest.mark.parametrize(
    "method",
    ["fedtl", "local", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("fedavg", "fedrep"))],
)
def test_a_stack_gives_the_numbers_of_serial(method, tmp_path):
    """Within rounding, over two rounds; which of the silos' test rows are right is the same."""
    one = do(tmp_path / "serial", small(f"method.name={method}"))
    other = do(tmp_path / "stack", small(f"method.name={method}", "engine.stack=4"))
    for name, its in one["silos"].items():
        mine, theirs = (own_validation(tmp_path / room, name) for room in ("serial", "stack"))
        assert theirs == pytest.approx(mine, rel=1e-3)
        mine, theirs = (run["silos"][name].pop("refitted", {}) for run in (one, other))
        assert theirs.pop("absent", {}) == mine.pop("absent", {})
        assert theirs == pytest.approx(mine, rel=1e-3)
        assert other["silos"][name].pop("absent") == its.pop("absent")
        assert other["silos"][name] == pytest.approx(its, rel=1e-3)
    wanted, found = tensors(tmp_path / "serial"), tensors(tmp_path / "stack")
    assert not same(wanted, found)  # or it was serial
    for file, state in wanted.items():
        for name in state.keys() & found[file].keys():
            torch.testing.assert_close(found[file][name], state[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_order_in_which_silos_answer_does_not_matter(engine, tmp_path, monkeypatch):
    one = do(tmp_path / "a", small(*ENGINES[engine]))
    for kind in (Serial, Processes, Stacked):
        each = kind.each
        monkeypatch.setattr(
            kind, "each", lambda self, job, silos, each=each: reversed(list(each(self, job, silos)))
        )
    other = do(tmp_path / "b", small(*ENGINES[engine]))
    assert numbers(one) == numbers(other)
    assert same(tensors(tmp_path / "a"), tensors(tmp_path / "b"))


def test_another_seed_is_another_run(tmp_path):
    assert numbers(do(tmp_path / "a", small())) != numbers(do(tmp_path / "b", small("seed=1")))
