"""What transfers between the sites of a study, from the numbers that they sent with their last updates."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from fedtl._util.files import write_json
from fedtl._util.records import from_plain
from fedtl.cli.main import app
from fedtl.deployment.coordinator.bundle import build_bundle
from fedtl.deployment.coordinator.study import HostedStudy
from fedtl.deployment.coordinator.study_files import StudyPlan, StudyResult
from fedtl.deployment.coordinator.transferability import PAGE, study_transferability
from fedtl.errors import ConfigError
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.transfer.numbers import transfer_limits
from fedtl.results.run import HistoryLine
from fedtl.results.transferability import Begin, Transferability
from tests.deployment.site.sites import SETTINGS

pytestmark = pytest.mark.slow
ASKS = ["request.transferability=true", "model.name=mlp", "model.settings.width=4", "method.tune.epochs=0"]
LOSSES = {"a": (1.0, 0.5, 0.4), "b": (0.9, 0.5, 0.5), "c": (1.1, 0.4, 0.45)}  # with 0, 1 and 2 of the stages


def sent(losses):
    """All numbers of a site, with these losses where a cut is chosen, and a score of one minus the loss there."""
    found = dict.fromkeys(transfer_limits(2, False, "accuracy"), 0.25)
    for begin, count, loss in zip(("new", "AnB+", "AnB+"), (0, 1, 2), losses, strict=True):
        found[f"transferability/{begin}/{count}/loss"] = loss
        found[f"transferability/{begin}/{count}/score"] = max(1 - loss, 0.0)
    return found


def hosted(folder, overrides=ASKS, lines=(), done=True):
    """A study of a bundle whose last round had these metrics of sites."""
    bundle = build_bundle(folder / "bundles", "x", load_experiment("digits", [*SETTINGS, *overrides]))
    info = bundle.info("s")
    plan = StudyPlan(info.config, info.roles, "x", 60.0, 1, info.bundle, info.plan)
    study = HostedStudy.create(folder / "studies" / "s", plan, {})
    for number, silos in enumerate(lines, 1):
        study.log.append(HistoryLine(number, 1.0, silos, {}, 0, 0))
    if done:
        write_json(study.path / "result.json", StudyResult.of("s", study.log.lines()))
    return study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    last = {name: {"accuracy": 0.5, **sent(losses)} for name, losses in LOSSES.items()}
    return hosted(
        tmp_path_factory.mktemp("server"),
        lines=[{"silent": {}}, {"silent": {}, **last}],
    )


def test_the_page_and_the_cut_follow_from_what_the_sites_sent(study):
    server = str(study.path.parents[1])
    printed = CliRunner().invoke(app, ["server", "transferability", server, "s"])
    assert printed.exit_code == 0
    found = from_plain(Transferability, json.loads((study.path / "transferability.json").read_text()))
    assert found.cut.fragment in printed.stdout
    assert (found.silos, found.seeds, found.rounds, found.deployed) == (("a", "b", "c"), (0,), 4, True)
    table = np.array(list(LOSSES.values()))
    best = table.mean(0).argmin()
    worse = table - table[:, [best]]
    error = worse.std(0, ddof=1) / np.sqrt(3)
    assert (found.cut.best, found.cut.stages) == (best, np.flatnonzero(worse.mean(0) <= error).min())
    one = next(point for point in found.points if (point.begin, point.stages) == (Begin.A_TUNED, 1))
    assert one.score.mean == pytest.approx((1 - table[:, 1]).mean())
    assert one.loss.mean == pytest.approx((table[:, 1] - table[:, 0]).mean())
    assert [stage.cka.mean for stage in found.measures] == [0.25, 0.25]
    assert [text.split(": ")[0] for text in found.warnings] == ["not measured at silent"]
    page = (study.path / PAGE).read_text()
    for text in ("this site included", "validation accuracy", "A1B+", "<svg"):
        assert text in page
    assert "leave one silo out" not in page
    cut = (study.path / "cut.toml").read_text()
    assert cut.startswith("# sites of a study, 3 silos")
    assert cut.endswith(found.cut.fragment)


def test_what_has_no_answer_is_said_in_a_line(tmp_path):
    study = hosted(tmp_path, lines=[{"a": {"accuracy": 0.5}}], done=False)
    with pytest.raises(ConfigError, match="is not done"):
        study_transferability(study)
    write_json(study.path / "result.json", StudyResult.of("s", study.log.lines()))
    with pytest.raises(ConfigError, match="policy.metrics"):
        study_transferability(study)


def test_a_study_that_did_not_ask_has_no_answer(tmp_path):
    with pytest.raises(ConfigError, match="did not ask"):
        study_transferability(hosted(tmp_path, ASKS[1:], [{"a": sent(LOSSES["a"])}]))
