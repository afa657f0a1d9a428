"""Plans whose method distils: what the coordinator computes on public inputs, and what a site reads and sends."""

import pytest
import torch

from fedtl.deployment.coordinator.bundle import build_bundle, read_agreement
from fedtl.deployment.coordinator.distil import with_public_model
from fedtl.deployment.coordinator.study import HostedStudy
from fedtl.deployment.coordinator.study_files import StudyPlan
from fedtl.deployment.site.rehearse import dry_run
from fedtl.deployment.site.site_plan import SitePlan, check_policy
from fedtl.errors import ConfigError, Denied
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.server_step import server_step
from fedtl.experiment.study import build
from fedtl.messages import Update
from fedtl.methods.fedmd import MeanAnswers
from fedtl.simulation.shared_store import temporary_store
from tests.deployment.site.sites import PRIVATE, SETTINGS, Site
from tests.experiments import ROUNDS_ONLY
from tests.real_processes import Federation

CLASSES = tuple("0123456789")
FEDDF = ["method.name=feddf", "method.steps=3", 'data.public=["faint"]', *ROUNDS_ONLY]
FEDMD = ["method.name=fedmd", 'method.weighting="agreement"', 'data.public=["faint"]', *ROUNDS_ONLY]


def plan_of(folder, sets):
    """A bundle in the coordinator's folder, its study, and what ``server.json`` says."""
    experiment = load_experiment("digits", [*SETTINGS, *sets])
    bundle = build_bundle(folder / "bundles", "x", experiment)
    info = bundle.info("s")
    plan = StudyPlan(info.config, info.roles, "x", 60.0, 1, info.bundle, info.plan)
    return experiment, bundle, StudyPlan.from_json(plan.to_json())


@pytest.fixture(scope="module")
def feddf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    return folder, *plan_of(folder, FEDDF)


def test_the_coordinator_computes_what_the_simulation_does(feddf):
    folder, experiment, _, plan = feddf
    with temporary_store() as rows:
        study = build(experiment, rows, rows)
        wanted = server_step(study)
        shared, _ = study.trainer.partition.split(study.trainer.initial(10))
        draw, roles = torch.Generator().manual_seed(0), study.trainer.partition.roles
        deltas = [
            {name: 0.01 * torch.rand(one.shape, generator=draw).to(one.dtype) for name, one in shared.items()}
            for _ in range(2)
        ]
        updates = [Update(f"s{number}", 1, delta, 1.0) for number, delta in enumerate(deltas)]
        found = with_public_model(HostedStudy(folder / "studies" / "s"), plan).server
        one, other = (step(shared, updates, roles, {})[0] for step in (wanted, found))
    assert all(torch.equal(one[name], other[name]) for name in one)
    plain = {name: shared[name] + (deltas[0][name] + deltas[1][name]) / 2 for name in ("head.weight",)}
    assert not torch.allclose(one["head.weight"], plain["head.weight"], atol=1e-6)  # it was trained


@pytest.mark.slow
def test_another_file_of_public_inputs_is_refused(tmp_path):
    _, bundle, plan = plan_of(tmp_path, FEDDF)
    content = bundle.public.read_bytes()
    bundle.public.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ConfigError, match="public inputs"):
        with_public_model(HostedStudy(tmp_path / "studies" / "s"), plan)


def at_site(folder, bundle, method, **changes):
    folder.mkdir(exist_ok=True)
    roles = ["body", "head", "aux", "norm", "stats", "summary"]
    site = Site(
        folder,
        ["method.name=fedavg"],
        policy__methods=["fedavg", method],
        policy__roles=roles,
        classes=CLASSES,
    )
    Federation.change(site.home.path / "silo.toml", **changes)
    _, agreement = read_agreement(bundle.file.read_bytes(), "x")
    return SitePlan(type(site.home).open(site.home.path), agreement)


def test_with_feddf_a_site_reads_no_public_input_and_sends_what_fedavg_sends(feddf, tmp_path):
    _, _, bundle, _ = feddf
    plan = at_site(tmp_path, bundle, "feddf")
    check_policy(plan)
    assert plan.dry_study.trainer.public is None
    assert set(dry_run(plan).delta) == {row.name for row in plan.manifest.lines}
    assert not any("summary" in row.name for row in plan.manifest.lines)


@pytest.mark.slow
def test_with_fedmd_a_site_sends_scores_on_the_inputs_that_the_plan_names(tmp_path):
    _, bundle, plan = plan_of(tmp_path, FEDMD)
    assert plan.config.server == MeanAnswers("agreement")
    with pytest.raises(Denied, match="set public"):
        check_policy(at_site(tmp_path / "a", bundle, "fedmd"))
    other = tmp_path / "other.safetensors"
    other.write_bytes(bundle.public.read_bytes() + b" ")
    with pytest.raises(Denied, match="has hash"):
        check_policy(at_site(tmp_path / "b", bundle, "fedmd", public=str(other)))
    its = at_site(tmp_path / "c", bundle, "fedmd", public=str(bundle.public))
    check_policy(its)
    (row,) = its.manifest.lines
    assert (row.name, row.shape) == ("summary/answers", (40, 10))
    assert list(dry_run(its).delta) == ["summary/answers"]
    Federation.change(its.home.path / "silo.toml", policy__roles=["body", "head"])
    with pytest.raises(Denied, match="summary"):
        check_policy(SitePlan(type(its.home).open(its.home.path), its.agreement))


@pytest.mark.slow
def test_scores_do_not_leave_a_site_that_requires_privacy(tmp_path):
    _, bundle, _ = plan_of(tmp_path, FEDMD)
    its = at_site(tmp_path / "a", bundle, "fedmd", public=str(bundle.public), policy__privacy=PRIVATE)
    with pytest.raises(Denied, match="differential privacy"):
        check_policy(its)
    ready = SitePlan(its.home, its.agreement.model_copy(update={"dp_ready": True}))
    with pytest.raises((ConfigError, Denied), match="fedmd"):
        check_policy(ready)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fedmd", "feddf"])
@pytest.mark.parametrize(
    "entries",
    [
        ["plain"],
        ["inputs:/tmp/x.npz"],
        ["prepared:/tmp/x"],
        ["prepared:-x"],
        ["noise:9", "plain"],
        ["prepared:-"] * 2,
    ],
)
def test_a_plan_does_not_choose_what_a_site_reads_as_public(feddf, tmp_path, entries, method):
    """The site's own rows, or a file of the site, would leave as scores on "public" inputs."""
    its = at_site(tmp_path, feddf[2], method)
    common = its.agreement.experiment
    data = common.data.model_copy(update={"public": entries})
    chosen = load_experiment("digits", [*SETTINGS, *(FEDMD if method == "fedmd" else FEDDF)]).method
    changed = common.model_copy(update={"data": data, "method": chosen})
    with pytest.raises(Denied, match="data.public"):
        check_policy(SitePlan(its.home, its.agreement.model_copy(update={"experiment": changed})))
