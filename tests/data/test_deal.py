"""One set dealt to simulated silos: every row once, alike in training and testing, by the law of the Dirichlet."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from PIL import Image

from fedtl.data import images
from fedtl.data.deal import FEW, dealt_names, silo_rows, whole_rows
from fedtl.data.prepare import prepare_silo, read_silo, silo_names
from fedtl.data.registry import DATA
from fedtl.data.settings import DataSettings, DealSettings
from fedtl.data.source import Part, Raw
from fedtl.errors import ConfigError, DataError
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.guarantees import silo_guarantee
from fedtl.experiment.study import build
from fedtl.simulation.shared_store import temporary_store

RNG = np.random.default_rng(0)
BY = st.sampled_from(["dirichlet", "size", "iid", "classes", "unit"])


def rows(labels, start=0):
    """Rows whose only value is their number; four rows in a row are of one unit."""
    number = np.arange(start, start + len(labels))
    return Part(number.astype(np.float32)[:, None], np.asarray(labels), (number // 4).astype(str))


def divided(raw, **changes):
    chosen = DealSettings(**({"silos": 3, "minimum": 4} | changes))
    return [silo_rows(raw, chosen, name, "all") for name in dealt_names(chosen)]


def numbers(part):
    return part.x[:, 0].astype(int).tolist()


COUNTS = st.lists(st.integers(0, 90), min_size=4, max_size=4)


def labels_of(counts, seed):
    return np.random.default_rng(seed).permutation(np.repeat(list("abcd"), counts)).tolist()


@settings(deadline=None, max_examples=30)
@given(COUNTS, COUNTS, BY, st.integers(2, 4), st.integers(0, 99))
def test_every_row_is_in_one_silo_and_each_silo_can_be_trained_and_tested(train, test, by, silos, seed):
    train, test = labels_of(np.array(train) + 12, seed), labels_of(np.array(test) + 4, seed)
    raw = Raw(rows(train), test=rows(test, 1000), columns=("x",))
    try:
        found = divided(raw, by=by, silos=silos, seed=seed, alpha=2.0, minimum=8, classes=2)
    except DataError:  # no draw of so few rows, as another test checks
        reject()
    for part, whole in (("train", raw.train), ("test", raw.test)):
        own = [getattr(silo, part) for silo in found]
        assert sorted(number for one in own for number in numbers(one)) == numbers(whole)
        for one in own:
            label_of = dict(zip(numbers(whole), whole.y.tolist(), strict=True))
            assert one.y.tolist() == [label_of[number] for number in numbers(one)]
    for silo in found:
        counts = Counter(silo.train.y.tolist())
        assert sum(counts.values()) >= 8
        assert len(silo.test.y) > 0
        if by in ("dirichlet", "classes"):
            assert set(silo.test.y.tolist()) <= counts.keys()
            assert len(counts) == 2 or (by == "dirichlet" and len(counts) > 2)
        if by == "dirichlet":
            assert all(count >= min(FEW, train.count(label)) for label, count in counts.items())
    again = divided(raw, by=by, silos=silos, seed=seed, alpha=2.0, minimum=8, classes=2)
    assert [numbers(silo.train) for silo in again] == [numbers(silo.train) for silo in found]
    if by == "iid":
        assert max(len(one.train.y) for one in found) - min(len(one.train.y) for one in found) <= 1
    if by == "unit":
        units = [set(one.train.units.tolist()) | set(one.test.units.tolist()) for one in found]
        assert sum(map(len, units)) == len(set().union(*units))
    if by == "classes":  # the silos of a class share it evenly, and their numbers differ by one at most
        holders = Counter(label for one in found for label in set(one.train.y.tolist()))
        assert max(holders.values()) - min(holders.values()) <= 1
        for label in "abcd":
            counts = [count for one in found if (count := (one.train.y == label).sum())]
            assert max(counts) - min(counts) <= 1


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9), st.integers(0, 300))
def test_whole_rows_are_within_one_of_the_share(weights, count):
    assume(sum(weights) > 0.01)
    shares = np.array(weights) / sum(weights)
    found = whole_rows(shares, count)
    assert found.sum() == count
    assert (np.abs(found - shares * count) < 1 + 1e-9).all()
    assert not found[shares == 0].any()


def test_shares_have_the_variance_of_the_dirichlet():
    """Dirichlet(a, ..., a) over K silos: a share has mean 1/K and variance (1/K)(1 - 1/K) / (K a + 1)."""
    raw, alpha, silos = Raw(rows(["a"] * 3000), columns=("x",)), 2.0, 4
    shares = [
        len(silo.train.y) / 3000
        for seed in range(150)
        for silo in divided(raw, by="size", silos=silos, alpha=alpha, seed=seed)
    ]
    assert np.mean(shares) == pytest.approx(1 / silos)
    assert np.var(shares) == pytest.approx((1 / silos) * (1 - 1 / silos) / (silos * alpha + 1), rel=0.15)


def test_a_small_alpha_makes_labels_differ_and_a_large_one_alike():
    raw = Raw(rows(["a", "b"] * 500), columns=("x",))

    def spread(alpha):
        shares = [(silo.train.y == "a").mean() for silo in divided(raw, alpha=alpha, minimum=20)]
        return max(shares) - min(shares)

    assert spread(1000.0) < 0.05 < 0.3 < spread(0.3)


def test_a_silo_is_tested_on_the_labels_that_it_trains_on():
    raw = Raw(rows(list("abcd") * 250), test=rows(list("abcd") * 100), columns=("x",))
    for silo in divided(raw, alpha=0.5, minimum=20):
        for label in "abcd":
            train, test = ((part.y == label).sum() for part in (silo.train, silo.test))
            assert abs(test - train * 100 / 250) <= 1


def test_a_division_by_size_depends_on_no_label():
    first, second = (
        divided(Raw(rows(labels), columns=("x",)), by="size") for labels in (["a", "b"] * 60, ["a"] * 120)
    )
    assert [numbers(silo.train) for silo in first] == [numbers(silo.train) for silo in second]
    by_label = divided(Raw(rows(["a", "b"] * 60), columns=("x",)))
    assert [numbers(silo.train) for silo in by_label] != [numbers(silo.train) for silo in first]


def one_set(path, labels=("0", "1"), **changes):
    rng = np.random.default_rng(0)
    y = np.tile(np.array(labels, int), 80)
    np.savez(path / "all.npz", train_x=rng.normal(size=(len(y), 3)), train_y=y)
    deal = DealSettings(**({"silos": 10, "minimum": 8, "alpha": 5.0} | changes))
    return DataSettings(source="npz", path=str(path), deal=deal)


def test_silos_are_the_same_for_every_seed_of_a_run(tmp_path):
    chosen = one_set(tmp_path)
    names = silo_names(chosen)
    assert names == [f"silo-{number:02}" for number in range(1, 11)]
    assert silo_names(chosen.model_copy(update={"silos": ["silo-03"]})) == ["silo-03"]

    def all_rows(seed):
        one = prepare_silo(read_silo(chosen, names[0]), chosen, names[0], seed, ("0", "1"), frozenset("01"))
        return len(one.data.train) + len(one.data.val) + len(
            one.evaluation_set.test
        ), one.evaluation_set.ids.tolist()

    assert all_rows(0)[0] == all_rows(1)[0]
    assert all_rows(0)[1] != all_rows(1)[1]  # the split of a silo's rows does depend on it
    first = read_silo(chosen, names[0]).train.x
    other = read_silo(one_set(tmp_path, seed=1), names[0]).train.x
    assert first.shape != other.shape or not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"minimum": 100}, "at most 12"),
        ({"silos": 200, "minimum": 4}, "decrease data.deal.silos"),
        ({"minimum": 17, "by": "iid"}, "at most 16"),
        ({"by": "classes", "classes": 3}, "classes = 3 of 2"),
    ],
)
def test_a_division_without_enough_rows_is_refused(tmp_path, changes, says):
    with pytest.raises(DataError, match=says):
        read_silo(one_set(tmp_path, **changes), "silo-001" if "silos" in changes else "silo-01")


def test_one_table_in_one_file_is_divided(tmp_path):
    file = tmp_path / "all.csv"
    file.write_text("x,label\n" + "".join(f"{n},{'ny'[n % 2]}\n" for n in range(90)))
    deal = DealSettings(silos=2, minimum=20, alpha=5.0)
    chosen = DataSettings(source="table", path=str(file), deal=deal)
    found = [number for name in silo_names(chosen) for number in numbers(read_silo(chosen, name).train)]
    assert sorted(found) == list(range(90))
    file.write_text("x,patient,label\n" + "".join(f"{n},p{n // 9},{'ny'[n % 2]}\n" for n in range(90)))
    by_unit = {"deal": DealSettings(silos=3, minimum=20, by="unit"), "unit_column": "patient"}
    for name in silo_names(chosen := chosen.model_copy(update=by_unit)):
        silo = read_silo(chosen, name).train
        assert all(count == 9 for count in Counter(silo.units.tolist()).values())


def test_a_folder_of_images_is_read_once_and_dealt(tmp_path, monkeypatch):
    pixels = RNG.integers(0, 256, (40, 6, 6), np.uint8)
    for number, one in enumerate(pixels):
        folder = tmp_path / "all" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(one).save(folder / f"{number}.png")
    opened = []
    read = images.read
    source = replace(DATA["images"], read=lambda *given: opened.append(given) or read(*given))
    monkeypatch.setitem(DATA.own, "images", source)
    deal = DealSettings(silos=4, minimum=5, by="iid")
    chosen = DataSettings(source="images", path=str(tmp_path), deal=deal)
    found = [read_silo(chosen, name).train for name in silo_names(chosen)]
    assert sorted(bytes(row) for one in found for row in one.x) == sorted(map(bytes, pixels))
    assert len(opened) == 1
    Image.fromarray(255 - pixels[0]).save(tmp_path / "all/a/0.png")
    again = [read_silo(chosen, name).train for name in silo_names(chosen)]
    assert any(bytes(row) == bytes(255 - pixels[0]) for one in again for row in one.x)


def test_several_sets_and_labels_without_training_rows_are_refused(tmp_path):
    chosen = one_set(tmp_path)
    np.savez(tmp_path / "more.npz", train_x=np.zeros((9, 3)), train_y=np.zeros(9))
    with pytest.raises(DataError, match="has 2: all, more"):
        silo_names(chosen)
    with pytest.raises(DataError, match="label 'c'"):
        divided(Raw(rows(list("ab") * 40), test=rows(list("abc")), columns=("x",)))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["data.deal.silos=3"], "source 'digits' has silos"),
        (["data.deal.silos=1"], "data.deal.silos = 1"),
        (["data.deal.silos=3", "data.task=regression"], "data.deal.by"),
        (
            ["data.source=npz", "data.path=.", "data.deal.silos=3", "data.target_domain=x"],
            "data.target_domain divides it already",
        ),
        (["data.deal.silos=3", "data.deal.beta=1"], "data.deal.beta"),
        (["data.partition.silos=3"], 'write data.deal = { by = "dirichlet"'),
        (["data.source=npz", "data.path=.", "data.deal={silos=3, by='unit'}"], "set data.unit_column"),
        (["data.source=npz", "data.path=.", "data.deal.silos=3", "data.unit_column=p"], 'set it to "unit"'),
        (
            ["data.source=npz", "data.path=.", "data.deal={silos=3, classes=1}"],
            "data.deal.classes is a setting",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(overrides, says):
    with pytest.raises(ConfigError) as error:
        load_experiment("digits", overrides)
    assert says in str(error.value)


def test_a_private_run_may_divide_by_size_but_not_by_label(tmp_path):
    one_set(tmp_path)
    sets = ["data.source=npz", f"data.path={tmp_path}", "data.silos=[]", "data.limit=0", "model.name=mlp"]
    sets += ["privacy.epsilon=8", "data.scale=none", "data.classes=['0','1']", "engine.name=serial"]
    sets += ["data.deal.silos=2", "data.deal.alpha=5.0"]
    with temporary_store() as shelf:
        study = build(load_experiment("digits", [*sets, "data.deal.by=size"]), shelf, shelf)
        assert silo_guarantee(study, "silo-1", tmp_path).epsilon <= 8
        assert any("simulated" in note for note in study.notes)
    with temporary_store() as shelf:
        study = build(load_experiment("digits", sets), shelf, shelf)
        with pytest.raises(ConfigError, match="data.deal"):
            silo_guarantee(study, "silo-1", tmp_path)
