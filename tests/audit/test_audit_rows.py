"""No private row in an audit: every picture of the page and every list of numbers of the bundle is compared with all rows."""

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from fedtl.audit.audit import AuditOptions, audit_run
from fedtl.audit.workload import Effort
from fedtl.errors import ConfigError
from fedtl.experiment.config.load import load_experiment, to_toml
from fedtl.experiment.guarantees import with_guarantees
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import build
from fedtl.simulation.shared_store import temporary_store
from tests.audit.retraining import only
from tests.experiments import ROUNDS_ONLY

SMALL = [
    *("rounds=1", "data.limit=40", 'data.silos=["plain", "faint"]', "engine.name=serial"),
    *ROUNDS_ONLY,
    *("privacy.epsilon=8", "audit.canaries=100", "audit.transcript=1", 'audit.show_rows=["plain"]'),
]
OTHER = 'audit.show_rows=["moon"]'
EFFORT = Effort(references=1, iterations=3, roles=False, planted=False)
ALIKE = 0.97  # correlation: that of the two most similar digits of these silos is lower


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = RunFolder.create(tmp_path_factory.mktemp("rows") / "run", load_experiment("digits", SMALL))
    run(folder.experiment(), folder)
    return folder


@pytest.fixture(scope="module")
def rows(ran):
    """Each silo's training rows as images [N, H, W]."""
    with temporary_store() as shelf:
        study = build(ran.experiment(), shelf, shelf)
        return {name: study.data(name).train.x[:, 0].double().numpy() for name in study.training}


@pytest.fixture(scope="module")
def out(ran, tmp_path_factory):
    """A bundle that was made with default options."""
    return audited(ran, tmp_path_factory.mktemp("audit") / "out")


def audited(folder, out, pictures=False):
    options = AuditOptions(effort=EFFORT, pictures=pictures)
    audit_run(folder, out, options, out.parent / "key.pem", lambda *_: None)
    return out


def likeness(values, rows) -> float:
    """The largest correlation of numbers with a row, in either order of the row's lines."""
    flat = np.concatenate([rows.reshape(len(rows), -1), rows[:, ::-1].reshape(len(rows), -1)])
    flat = flat - flat.mean(1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    values = values - values.mean()
    return float(np.abs(flat @ values).max() / max(np.linalg.norm(values), 1e-12))


def pictures(page: str, size: int) -> Iterator[np.ndarray]:
    """Every picture in a page, read in the middle of each of its ``size`` by ``size`` blocks."""
    for content in re.findall(r"data:image/\w+;base64,([A-Za-z0-9+/=\s]+)", page):
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("L"), float)
        lines, columns = ((np.arange(size) + 0.5) * length / size for length in image.shape)
        yield image[np.ix_(lines.astype(int), columns.astype(int))].ravel()


def lists(content) -> Iterator[list[float]]:
    """Every list of numbers in JSON, nested ones flattened."""
    if isinstance(content, dict):
        yield [float(value) for value in content.values() if isinstance(value, int | float)]
        for value in content.values():
            yield from lists(value)
    elif isinstance(content, list):
        yield [float(value) for value in np.ravel(content)] if _numbers(content) else []
        for value in content:
            yield from lists(value)


def _numbers(content) -> bool:
    return all(_numbers(value) if isinstance(value, list) else isinstance(value, float) for value in content)


def written(page: str) -> Iterator[list[float]]:
    """Every run of numbers in a page: paths, tables, notes."""
    for text in re.findall(r'="([^"]*)"', page):
        yield [float(word) for word in re.findall(r"-?\d+\.?\d*", text)]
    yield [float(word) for word in re.findall(r"-?\b\d+\.?\d*\b", re.sub(r"<[^>]*>", " ", page))]


def windows(values: list[float], count: int) -> Iterator[np.ndarray]:
    """All stretches of ``count`` numbers, and every second number alone, as in the coordinates of a path."""
    for numbers in (np.array(values), np.array(values[::2]), np.array(values[1::2])):
        for at in range(len(numbers) - count + 1):
            yield numbers[at : at + count]


def worst(out, rows) -> tuple[float, float]:
    """The largest correlation of any picture, and of any list of numbers, with a row."""
    size = rows.shape[1]
    page = (out / "audit.html").read_text()
    drawn = [likeness(picture, rows) for picture in pictures(page, size)]
    texts = [json.loads(path.read_text()) for path in out.glob("*.json")]
    found = [*written(page), *(values for text in texts for values in lists(text))]
    listed = [likeness(part, rows) for values in found for part in windows(values, size**2)]
    return max(drawn, default=0.0), max(listed, default=0.0)


def test_no_row_is_in_the_bundle_whatever_the_experiment_declares(out, rows):
    for name in rows:
        drawn, listed = worst(out, rows[name])
        assert drawn == 0.0, name
        assert listed < ALIKE, name
    page = (out / "audit.html").read_text()
    assert "data:image" not in page
    for text in (page, (out / "bundle.json").read_text(), (out / "audit.json").read_text()):
        assert "private rows" in text
        assert "not a release" in text


def test_no_fingerprint_and_no_figure_of_one_row_is_in_the_bundle(ran, out):
    """In a simulation the key of a fingerprint follows from the seed."""
    with temporary_store() as shelf:
        study = with_guarantees(build(ran.experiment(), shelf, shelf), ran)
        marks = [guarantee.account.rows.fingerprint for guarantee in study.guarantees.values()]
    content = "".join(path.read_text() for path in out.iterdir())
    assert marks
    assert not any(mark[:12] in content for mark in marks)
    for case in json.loads((out / "audit.json").read_text())["inversion"]["cases"]:
        assert "silos" not in case
        assert all(round(case[key], 2) == case[key] for key in ("psnr", "psnr_of_mean", "ssim"))


def test_pictures_are_of_showable_rows_alone(ran, rows, tmp_path, monkeypatch):
    only(monkeypatch, [])  # no check draws a picture
    out = audited(ran, tmp_path / "out", pictures=True)
    assert worst(out, rows["plain"])[0] > 0.99
    page = (out / "audit.html").read_text()
    assert "faint, " not in page
    for picture in pictures(page, rows["plain"].shape[1]):
        # Rows of both silos are similar digits; a picture of a row is nearer to this row than to any other.
        assert likeness(picture, rows["faint"]) < max(ALIKE, likeness(picture, rows["plain"]))
    assert "training rows" in page


def test_the_comparison_finds_a_hidden_row(ran, rows, tmp_path):
    """The tests above rely on this: a row as a list, as a path, and as text."""
    row = rows["faint"][7]
    for hidden in ("json", "path", "text"):
        out = tmp_path / hidden
        out.mkdir()
        (out / "audit.json").write_text(json.dumps({"a": {"b": row.tolist() if hidden == "json" else []}}))
        path = " ".join(f"L {at} {value:.3f}" for at, value in enumerate(row.ravel()))
        text = " ".join(f"{value:.1f}" for value in row.ravel())
        (out / "audit.html").write_text({"path": f'<path d="{path}">', "text": text}.get(hidden, ""))
        assert worst(out, rows["faint"])[1] > 0.999, hidden


def test_pictures_need_the_consent_of_a_silos_owner(ran, tmp_path):
    for declared, part in ((SMALL[:-1], "show_rows"), ([*SMALL[:-1], OTHER], "moon")):
        shutil.copytree(ran.path, tmp_path / part)
        folder = RunFolder(tmp_path / part)
        (folder.path / "experiment.toml").write_text(to_toml(load_experiment("digits", declared)))
        with pytest.raises(ConfigError, match=part):
            audited(folder, tmp_path / "out", pictures=True)
    assert not (tmp_path / "out").exists()


def test_a_bundle_is_not_written_into_a_folder_with_other_files(ran, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"thesis\.txt"):
        audited(ran, tmp_path / "out")
    assert not (tmp_path / "key.pem").exists()
