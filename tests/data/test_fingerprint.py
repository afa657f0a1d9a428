"""The same rows have the same fingerprint, and any change of a value, a label, a unit, a name or the order gives another."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fedtl.data.fingerprint import rows_fingerprint
from fedtl.data.settings import DataSettings
from fedtl.data.source import Part, Raw
from fedtl.data.streamed import StreamedImages
from fedtl.experiment.config.load import load_experiment, with_changes
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.side_results import changed_rows, fingerprints

X, Y = np.arange(12.0).reshape(4, 3), np.array(["ill", "well", "ill", "ill"])
UNITS = np.array([1, 1, 2, 3])


def raw(x=X, y=Y, units=UNITS, columns=("a", "b", "c"), **parts):
    return Raw(Part(x, y, units), columns=columns, **parts)


def test_any_change_gives_another_fingerprint_and_a_copy_the_same():
    first = rows_fingerprint(raw())
    assert rows_fingerprint(raw(X.copy(), Y.astype(object), UNITS.copy())) == first
    other = X.copy()
    other[3, 2] = np.nextafter(other[3, 2], 99)
    changed = [
        *(raw(other), raw(X[::-1]), raw(y=Y[::-1]), raw(units=None), raw(units=UNITS + 1)),
        *(raw(columns=("a", "c", "b")), raw(X.astype("float32")), raw(X.reshape(4, 3, 1))),
        *(raw(X[:3], Y[:3], UNITS[:3], test=Part(X[3:], Y[3:], UNITS[3:])), raw(target=X)),
        raw(X[:3], Y[:3], UNITS[:3], val=Part(X[3:], Y[3:], UNITS[3:])),
    ]
    marks = [first, *map(rows_fingerprint, changed)]
    assert len(set(marks)) == len(marks)
    assert rows_fingerprint(raw(), labels=False) == rows_fingerprint(raw(y=Y[::-1]), labels=False) != first


def test_it_is_sha_256_of_what_it_says():
    """Written down by hand: a change would make the fingerprints of old results useless."""
    digest = hashlib.sha256(b'["a", "b", "c"]train<f8 (4, 3)')
    digest.update(X.tobytes() + b'["ill", "well", "ill", "ill"]<i8 (4,)' + UNITS.tobytes() + b"none")
    assert rows_fingerprint(raw()) == digest.hexdigest()[:16]


def test_streamed_images_have_that_of_their_names_and_sizes(tmp_path):
    for number in range(3):
        Image.fromarray(np.full((4, 4), 80 * number, np.uint8)).save(tmp_path / f"{number}.bmp")
    settings = DataSettings(source="images", path=str(tmp_path), size=4, channels=1, stream=True)
    images = StreamedImages.of(sorted(tmp_path.glob("*.bmp")), settings)
    first = rows_fingerprint(raw(images, Y[:3], None, ()))
    assert rows_fingerprint(raw(images.take(np.array([1, 0, 2])), Y[:3], None, ())) != first
    (tmp_path / "2.bmp").rename(tmp_path / "3.bmp")
    renamed = StreamedImages.of(sorted(tmp_path.glob("*.bmp")), settings)
    assert rows_fingerprint(raw(renamed, Y[:3], None, ())) != first


@pytest.mark.slow
def test_a_run_has_one_for_each_silo(tmp_path):
    """tests/experiment/test_private_run.py: a private run has none."""
    settings = load_experiment(
        "digits",
        [
            *("rounds=1", "data.limit=20", "data.silos=['plain','faint']", "data.late=['blurred']"),
            *("engine.name=serial", "model.name=linear"),
        ],
    )
    first, again = (
        run(with_changes(settings, seed=seed), RunFolder.create(tmp_path / str(seed), settings), "cpu")
        for seed in (0, 1)
    )
    assert first.fingerprints.keys() == {"plain", "faint", "blurred"}
    assert first.fingerprints == again.fingerprints  # of the rows alone
    results = {"fedavg": [first, again]}
    assert fingerprints(results) == first.fingerprints
    assert changed_rows(results) == []
    other = replace(again, fingerprints={**again.fingerprints, "faint": "0" * 16})
    assert ["faint" in line for line in changed_rows({"fedavg": [first, other]})] == [True]
