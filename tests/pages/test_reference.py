"""The pages of docs/reference are made from the code: every setting, entry, command, error and file is on them."""

import json
import re
import sys

import numpy as np
import pytest
import typer
from scipy import stats

import fedtl
from fedtl import errors
from fedtl.cli.main import app
from fedtl.cli.schema import file_schemas
from fedtl.data.registry import DATA
from fedtl.deployment.about import SERVER, site_about
from fedtl.experiment.config.about import ABOUT
from fedtl.experiment.config.annotate import keys
from fedtl.methods.heads.choose import HEADS
from fedtl.methods.registry import METHODS, TERMS
from fedtl.models.registry import MODELS
from fedtl.tasks.registry import TASKS
from fedtl.training.augment import CHANGES
from tests.pages.tutorial import ROOT

PAGES = ROOT / "docs" / "reference"


@pytest.fixture(scope="module")
def reference():
    sys.path.insert(0, str(ROOT / "docs" / "_ext"))
    try:
        import reference

        yield reference
    finally:
        sys.path.remove(str(ROOT / "docs" / "_ext"))


@pytest.fixture(scope="module")
def page(reference):
    return {path.stem: reference.filled(path.read_text()) for path in PAGES.glob("*.md")}


def sections(text):
    return re.findall(r"^#+ `(.+?)`", text, re.M)


def first_cells(text):
    return re.findall(r"^\| `(.+?)`", text, re.M)


def test_every_setting_is_listed_with_what_it_does(page):
    text = page["settings"]
    for key in keys():
        row = re.search(rf'id="setting-{re.escape(key)}".*', text)
        assert row is not None, key
        about = re.sub(r"[\W_]", "", ABOUT[key]).lower()
        assert about in re.sub(r"[\W_]", "", text[row.start() :]).lower(), key
    assert "| `lr` | number above 0 | `0.05` |" in re.sub(r"<a.*?</a>", "", text)
    assert "| `epsilon` | number above 0 to 100 | required |" in re.sub(r"<a.*?</a>", "", text)


def test_every_setting_of_a_site_and_of_a_coordinator_has_its_text(page):
    """In the JSON Schema too; and no text is of a key that does not exist."""
    rows = re.findall(r"^\| `(\w+)` \|(.*)", page["site-settings"], re.M)
    for file, about in (("silo", site_about()), ("server", SERVER)):
        schema = file_schemas()[file]()
        keys = dict(setting_keys(schema, "", schema.get("$defs", {})))
        assert {path for path, key in keys.items() if not key.get("description")} == set()
        assert {path: keys[path]["description"] for path in about if path in keys} == {
            path: text for path, text in about.items() if path != "data.slices"
        }
        for path in keys:
            text = re.sub(r"\W", "", about[path])
            of_key = [row for name, row in rows if name == path.rpartition(".")[2]]
            assert any(re.sub(r"\W", "", row).endswith(text) for row in of_key), path


def setting_keys(table, path, tables):
    """Yield the path and the schema of each key that is a value."""
    for name, key in table["properties"].items():
        inner = tables.get(key.get("$ref", "").rpartition("/")[2], {})
        if "properties" in inner:
            yield from setting_keys(inner, f"{path}{name}.", tables)
        else:
            yield f"{path}{name}", key


def test_every_entry_of_a_table_has_its_section(page):
    assert sections(page["methods"])[: len(METHODS)] == list(METHODS)
    assert sections(page["terms"]) == list(TERMS)
    assert sections(page["models"]) == list(MODELS)
    assert set(HEADS) <= set(sections(page["measures"]))
    assert set(DATA) <= set(first_cells(page["sources"]))
    assert set(TASKS) <= set(first_cells(page["tasks"]))
    assert set(CHANGES) <= set(first_cells(page["models"]))


def test_what_a_method_sends_and_refuses_is_told(page):
    def of(name):
        return re.search(rf"^## `{name}`\n(.*?)(?=^## )", page["methods"], re.M | re.S)[1]

    assert "| leaves a silo in each round | adapter, aux, body, head |" in of("fedbn")
    assert "| leaves a silo in each round | nothing |" in of("local")
    assert re.search(r"leaves a silo in each round \|.*the slot `control`", of("scaffold"))
    assert re.search(r"stays at the silo \|.*the slot `own_control`", of("scaffold"))
    assert "the summary `" in of("ridge")
    assert "refused" in of("simclr")
    assert "| with `[privacy]` | possible |" in of("fedavg")
    assert "measured gain" in of("fedavg")


def test_every_command_and_option_is_listed(page):
    def leaves(command, name):
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name, command
        for part, below in (inner or {}).items():
            yield from leaves(below, f"{name} {part}")

    text = page["commands"]
    for name, command in leaves(typer.main.get_command(app), "fedtl"):
        section = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", text, re.M | re.S)[1]
        for option in command.params:
            if option.opts[0].startswith("--") and option.name != "help":
                assert f"`{option.opts[0]}`" in section, f"{name} {option.opts}"


def test_every_error_public_name_and_file_is_listed(page):
    kinds = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, Exception)]
    assert set(re.findall(r"`(\w+)` \|$", page["exit-codes"], re.M)) >= {kind.__name__ for kind in kinds}
    assert {f"fedtl.{name}" for name in fedtl.__all__ if name != "errors"} <= set(
        re.findall(r"[\w.]+", page["python-api"])
    )
    for name in set(file_schemas()) - {"experiment", "silo", "server"}:
        assert f"`fedtl schema {name}`" in page["files"]


def test_every_method_has_its_line_in_the_page_that_helps_to_choose():
    text = (ROOT / "docs" / "howto" / "choose-a-method.md").read_text()
    assert [name for name in METHODS if f"`{name}`" not in text] == []


def test_a_method_says_when_to_add_it(page):
    def of(name):
        section = re.search(rf"^## `{name}`\n(.*?)(?=^## |\Z)", page["methods"], re.M | re.S)[1]
        return re.search(r"^\| when to add it \| (.+) \|$", section, re.M)[1]

    assert {name for name in METHODS if not of(name)} == set()
    assert of("ifca") == "there are two or three groups of silos"
    assert of("fedbn") == "silos differ by scanner, sensor or population"
    assert of("local") == "always, as a yardstick"
    assert of("probe").startswith("always, as a yardstick; one message")


def test_a_method_has_the_formulas_of_its_terms(page):
    def of(name):
        return re.search(rf"^## `{name}`\n(.*?)(?=^## |\Z)", page["methods"], re.M | re.S)[1]

    formulas = {
        "fedavg": "sum_k n_k w_k / sum_k n_k",
        "fedprox": "mu/2 ||w - w_to||^2",
        "moon": "mu log(1 + e^((s(z, z_previous) - s(z, z_received)) / t))",
        "fedproto": "strength / D ||f - m_y||^2",
        "scaffold": "c - c_i, added to each gradient",
    }
    assert [name for name, text in formulas.items() if text not in of(name).replace("\\", "")] == []
    assert "A term that" not in of("fedavg") + of(
        "mmd"
    )  # the loss of the task, and what the entry says itself


def test_no_comment_for_a_generated_text_is_left(page):
    assert not [name for name, text in page.items() if "<!--" in text]


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0, 8.0])
def test_the_odds_of_an_attacker_are_those_of_randomised_response(reference, epsilon):
    """Of one bit that is told truthfully with probability e / (1 + e): the worst case of epsilon differential privacy."""
    from reference import odds

    truth = stats.logistic.cdf(epsilon)
    assert odds.posterior(epsilon) == pytest.approx(truth)
    for false_positives in (0.01, 1 - truth, 0.9):  # the curve of randomised response has one corner
        found = np.interp(false_positives, [0, 1 - truth, 1], [0, truth, 1])
        assert odds.true_positives(epsilon, 0.0, false_positives) == pytest.approx(found)


def test_measured_tables_are_those_of_the_newest_files(reference):
    """Each number is read again from its file: of each load and contender the file of the latest date that has it."""
    text = {
        name: reference.GENERATED[name]() for name in ("speed", "speed-small", "private-step", "private-cost")
    }
    newest = {}
    for path in (ROOT / "simulations" / "bench").glob("*-cores-20*.json"):
        content = json.loads(path.read_text())
        loads = content["loads"] if isinstance(content["loads"], dict) else {}
        for load, its in loads.items():
            for who, one in its.get("contenders", {}).items():
                if "ratio_to_floor" in one:
                    new = content["date"], path.name, one["ratio_to_floor"]
                    newest[load, who] = max(new, newest.get((load, who), new))
    for name, columns in (
        ("speed", ("mlp", "convnet", "resnet18")),
        ("speed-small", ("mlp", "linear", "school")),
    ):
        for who in ("fedtl, 1 worker", "fedtl, 2 workers", *(("Flower",) if name == "speed" else ())):
            (line,) = (line for line in text[name].splitlines() if line.startswith(f"| {who} |"))
            cells = [float(cell.split()[0]) for cell in line.strip("| ").split(" | ")[1:]]
            files = [newest[load, who] for load in columns]
            assert cells == pytest.approx([ratio for _, _, ratio in files], abs=0.005)
            assert all(date in text[name] and file in text[name] for date, file, _ in files)
    steps = json.loads(reference.measured.newest("-steps").read_text())["loads"]
    for load in steps.values():
        assert (
            f"{load['contenders']['private step, book-keeping']['ratio_to_floor']:.2f} times"
            in text["private-step"]
        )
    for name in ("scanner", "digits", "digits6"):
        found = json.loads((ROOT / "simulations" / "private" / f"{name}.json").read_text())["table"]
        for cells in found.values():
            for cell in cells.values():
                cell = cell.get("received", cell)
                assert f"{100 * cell['mean']:.1f} ±{100 * cell['half']:.1f}" in text["private-cost"]
    for page in ("explanation/speed.md", "privacy.md"):
        assert "generated:" not in reference.filled((ROOT / "docs" / page).read_text())


def test_the_newest_file_is_that_of_the_latest_date(reference, tmp_path, monkeypatch):
    for name in (
        "b-2-cores-2026-01-01",
        "a-2-cores-2026-02-01",
        "c-2-cores-2026-03-01-small",
        "d-2-cores-deploy-2027-01-01",
    ):
        (tmp_path / f"{name}.json").write_text("{}")
    monkeypatch.setattr(reference.measured, "BENCH", tmp_path)
    assert reference.measured.newest("").name == "a-2-cores-2026-02-01.json"
    assert reference.measured.newest("-small").name == "c-2-cores-2026-03-01-small.json"


def test_the_page_of_speed_judges_each_target_by_todays_bound(reference, tmp_path, monkeypatch):
    """The file says that its own, weaker bar was met: what counts is the bound of today, and how loaded the machine was."""
    from reference import measured, measured_bars

    def figures(*seconds):
        return {"seconds": seconds, "in_turn": True, "ratio_to_floor": 1.0}

    loads = {
        name: {
            "contenders": {
                "floor": figures(1.0),
                "floor, as many at once as workers": figures(beside),
                "fedtl, 2 workers": figures(0.67),
            }
        }
        for name, beside in (("mlp", 1.0), ("resnet18", 1.3))
    }
    machine = {"cpu": "a CPU", "cores": 2, "versions": {}, "commit": "0123456789", "changed": True}
    old = {"load": "mlp", "claim": "fedtl, 2 workers takes at most 1.5 x floor", "met": True}
    content = {"date": "2026-01-01", "machine": machine, "loads": loads, "bars": [old]}
    (tmp_path / "some-2-cores-2026-01-01.json").write_text(json.dumps(content))
    monkeypatch.setattr(measured, "BENCH", tmp_path)
    text = measured_bars.speed_bars()
    assert "| tiny MLP | fedtl, 2 workers takes at most 0.6 x floor | 0.67 (a) | **not reached** |" in text
    assert "| 0.67 (a) | **not concluded**: floors side by side took 1.30 times as long as one" in text
    assert "| fedtl --help takes at most 0.4 s |  | not measured" in text
    assert "commit 01234567 with changes" in text


def test_what_private_silos_use_at_home_is_that_of_the_committed_runs(reference):
    text = reference.filled("<!-- generated: private-at-home -->")
    runs = json.loads((ROOT / "simulations" / "private" / "digits-at-home.json").read_text())["runs"]
    assert len(runs) == sum(
        bool(re.search(r"\d", cell)) for line in text.splitlines()[2:] for cell in line.split("|")[2:]
    )
    for run in runs:
        assert f"{100 * run['received']:.1f}, {100 * run['accuracy']:.1f}" in text
    assert "| DP-AdaBN |  | 22.0, 95.0 |  |" in text
