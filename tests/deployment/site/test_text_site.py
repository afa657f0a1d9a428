"""Institutions that agree on a model of text: by the hashes of its files, of which each has its own copy."""

import json
import shutil
from hashlib import sha256

import pytest
import torch
from safetensors.torch import load_file

from fedtl.deployment.coordinator.bundle import build_bundle, read_agreement
from fedtl.deployment.site.rehearse import rehearse
from fedtl.deployment.site.site_plan import SitePlan, check_policy
from fedtl.errors import ConfigError, Denied
from fedtl.experiment.config.known_tasks import check_deployment
from fedtl.experiment.config.load import with_changes
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from tests.deployment.site.studies import approve, make_site, run_study
from tests.experiment.test_text import experiment, write_notes
from tests.models.text_folders import need_transformers, write_folder

POLICY = {
    "policy__methods": ["fedavg"],
    "policy__models": ["hf-folder:bert"],
    "policy__metrics": ["accuracy", "loss"],
    "data__path": "data",
    "model_folder": "copy",
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    need_transformers()
    folder = tmp_path_factory.mktemp("text")
    write_folder(folder / "bert")
    write_notes(folder / "notes", rows=24)
    return folder


@pytest.fixture(scope="module")
def bundle(places):
    return build_bundle(places / "bundles", "notes", experiment(places))


def site(places, folder, name, **changes):
    home = make_site(folder, name, **{**POLICY, **changes})
    (home.path / "data").mkdir()
    shutil.copy(places / "notes" / f"{name}.csv", home.path / "data")
    shutil.copytree(places / "bert", home.path / "copy")
    return home


@pytest.mark.slow
def test_a_round_has_the_bits_of_the_simulation_and_the_page_names_the_files(places, bundle):
    homes = [site(places, places / "sites", name) for name in "ab"]
    page = approve(bundle, *homes)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        assert sha256((places / "bert" / name).read_bytes()).hexdigest() in page
    assert "note (text" in page
    last = run_study(bundle, *homes)
    folder = RunFolder.create(places / "run", experiment(places))
    run(folder.experiment(), folder)
    simulated = load_file(folder.path / "shared.safetensors")
    assert last.left_out == {}
    assert last.after.shared.keys() == simulated.keys()
    assert all(torch.equal(last.after.shared[name], simulated[name]) for name in simulated)


def test_a_bundle_says_nothing_of_the_coordinators_machine(places, bundle, tmp_path):
    _, agreement = read_agreement(bundle.file.read_bytes(), "x")
    assert agreement.experiment.model.name == "hf-folder:bert"
    for file in bundle.folder.rglob("*"):
        assert not file.is_file() or str(places).encode() not in file.read_bytes(), file
    declared = build_bundle(tmp_path, "notes", experiment(places), (12,), ("ill", "well"))
    assert declared.hash == bundle.hash  # of a coordinator that has no rows
    other = agreement.model_copy(update={"tokenizer": "0" * 64})
    assert other.hash != agreement.hash  # what a site signs covers it


def test_a_site_with_another_file_refuses(places, bundle, tmp_path):
    home = site(places, tmp_path, "a")
    _, agreement = read_agreement(bundle.file.read_bytes(), "x")
    check_policy(SitePlan(home, agreement))
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        path = home.path / "copy" / name
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        with pytest.raises(Denied, match=rf"model_folder: .*{name} has hash"):
            check_policy(SitePlan(home, agreement))
        path.unlink()
        with pytest.raises(Denied, match="set model_folder in silo.toml"):
            check_policy(SitePlan(home, agreement))
        path.write_bytes(content)


def test_a_plan_chooses_no_file_of_the_site(places, bundle, tmp_path):
    """It says which model; the policy says whether, and silo.toml which file."""
    home = site(places, tmp_path, "a")
    _, agreement = read_agreement(bundle.file.read_bytes(), "x")
    model = agreement.experiment.model.model_copy(update={"name": f"hf-folder:{places / 'bert'}"})
    elsewhere = agreement.model_copy(
        update={"experiment": agreement.experiment.model_copy(update={"model": model})}
    )
    with pytest.raises(Denied, match=r"policy\.models"):
        check_policy(SitePlan(home, elsewhere))
    assert SitePlan(home, elsewhere).experiment.model.name == f"hf-folder:{home.path / 'copy'}"
    for changes in ({"config": ""}, {"tokenizer": ""}, {"config": "", "tokenizer": ""}):
        with pytest.raises(Denied, match="names no hash"):
            check_policy(SitePlan(home, agreement.model_copy(update=changes)))


def test_a_file_of_weights_may_lie_elsewhere(places, bundle, tmp_path):
    home = site(places, tmp_path, "a", weights="w.safetensors")
    (home.path / "copy" / "model.safetensors").rename(home.path / "w.safetensors")
    facts, _ = rehearse(home, bundle.file)
    assert facts.refused == ""
    assert facts.claim.rows_error == ""
    assert json.loads(json.dumps(facts.to_json()))["files"].keys() == {
        "weights",
        "config.json",
        "tokenizer.json",
    }


def test_what_the_coordinator_would_need_the_folder_for_is_refused(places):
    plan = experiment(places)
    request = plan.request.model_copy(update={"transferability": True})
    with pytest.raises(ConfigError, match=r"request\.transferability"):
        check_deployment(with_changes(plan, request=request))
