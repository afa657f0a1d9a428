"""Settings of images and volumes that contradict each other are refused before anything is read."""

import pytest

from fedtl.errors import ConfigError
from fedtl.experiment.config.load import load_experiment

IMAGES = ["data.source=images"]
WRONG = [
    (["data.kind=volumes"], "data.kind"),  # of the digits
    (["data.manifest=labels.csv"], "data.manifest"),
    ([*IMAGES, "data.manifest=../labels.csv"], "data.manifest"),
    ([*IMAGES, "data.manifest=/labels.csv"], "data.manifest"),
    ([*IMAGES, "data.file_column=file"], "data.file_column"),
    ([*IMAGES, "data.silo_column=site"], "data.silo_column"),
    ([*IMAGES, "data.unit_column=patient"], "data.unit_column"),
    ([*IMAGES, "data.kind=volumes", "data.channels=3"], "data.channels"),
    ([*IMAGES, "data.kind=volumes", "data.slices={axis='axial'}"], "data.slices"),
    ([*IMAGES, "data.slices={axis='axial', start=0.5, stop=0.5}"], "data.slices.start"),
    ([*IMAGES, "data.slices={axis='depth'}"], "data.slices.axis"),
    ([*IMAGES, "data.pixel_range=[5, 5]"], "low below high"),
    ([*IMAGES, "data.pixel_range=[5]"], "low below high"),
    ([*IMAGES, "data.pixel_range=wide"], "data.pixel_range"),
    (["data.source=npz", "data.pixel_range=window"], "DICOM"),
    (["data.source=table", "data.pixel_range=[0, 5]"], "a table has"),
    ([*IMAGES, "data.pixel_range=[0, 5]", "data.scale=dp", "privacy.epsilon=3"], "data.pixel_range"),
    (["data.source=npz", "data.sequence={}", "data.pixel_range=[0, 5]"], "data.sequence"),
]


@pytest.mark.parametrize(("sets", "word"), WRONG, ids=[" ".join(sets) for sets, _ in WRONG])
def test_a_contradiction_names_the_key(tmp_path, sets, word):
    with pytest.raises(ConfigError, match=word):
        load_experiment("digits", [f"data.path={tmp_path}" if "source" in "".join(sets) else "seed=0", *sets])


def test_a_table_of_files_has_the_keys_of_tables(tmp_path):
    sets = [
        "manifest=labels.csv",
        "silo_column=site",
        "unit_column=patient",
        "split_column=part",
        'delimiter=";"',
    ]
    experiment = load_experiment(
        "digits", [*IMAGES, f"data.path={tmp_path}", *(f"data.{one}" for one in sets)]
    )
    assert experiment.data.manifest == "labels.csv"
    private = ["privacy.epsilon=3", "privacy.unit=patient", "data.manifest=labels.csv"]
    assert (
        load_experiment("digits", [*IMAGES, f"data.path={tmp_path}", *private]).data.unit_column == "patient"
    )
