import pytest

from fedtl._util.toml_text import parse_toml


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("kind", [str, bytes])
def test_the_line_ends_of_all_systems_are_read(ends, kind):
    text = ends.join(["[a]", "b = 1", "[c]", "d = '病院'", ""])
    assert parse_toml(text if kind is str else text.encode(), "x") == {"a": {"b": 1}, "c": {"d": "病院"}}


@pytest.mark.parametrize("content", ["[a", b"\xff", "a = " + "9" * 5000, "a = " + "[" * 5000])
def test_what_is_not_toml_is_one_line_with_its_source(content):
    with pytest.raises(ValueError, match=r"^silo.toml is not TOML: ") as caught:
        parse_toml(content, "silo.toml")
    assert "\n" not in str(caught.value)
