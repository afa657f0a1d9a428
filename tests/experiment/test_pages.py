"""Pages of finished runs and comparisons."""

import pytest

from fedtl.errors import ConfigError
from fedtl.experiment.pages import write_pair_page
from fedtl.experiment.run_folder import RunFolder


def test_damaged_settings_of_a_comparison_are_one_line_with_the_file(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "comparison.json").write_text("{}")
        (tmp_path / name / "experiment.toml").write_text("rounds = [")
    with pytest.raises(ConfigError, match="not TOML") as caught:
        write_pair_page(RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two"), tmp_path / "pair.html")
    assert str(tmp_path / "one" / "experiment.toml") in str(caught.value)
    assert "\n" not in str(caught.value)
