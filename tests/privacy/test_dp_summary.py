"""A summary that a private silo releases: how much one unit changes it, what noise it has, what it costs, and how often."""

from dataclasses import dataclass, replace
from itertools import product

import pytest
import torch

from fedtl.audit.canaries.conformance import summary_conformance
from fedtl.audit.canaries.log import read_released_summaries
from fedtl.audit.transcript import RunDocuments, check_documents
from fedtl.audit.verdict import failed
from fedtl.data.dataset import Dataset
from fedtl.errors import ConfigError
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.lint.claims import guarantee_claims
from fedtl.experiment.lint.dry_run import examine
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import TRANSCRIPT, RunFolder
from fedtl.federation.recorder import read_transcript
from fedtl.methods.base import Method, Phase
from fedtl.methods.losses import Batch, Computed, Forward, Pass
from fedtl.methods.private import private_problems
from fedtl.methods.registry import METHODS
from fedtl.methods.ridge_sums import Projection, RidgeSums, Rows
from fedtl.methods.soft_labels import SoftLabels
from fedtl.methods.summary import Summary
from fedtl.models.roles import EVERYTHING
from fedtl.privacy import accounting
from fedtl.privacy.canaries import CanarySums
from fedtl.privacy.dp_summary import SummaryRelease, noisy_mean
from fedtl.privacy.noise import Noise
from fedtl.simulation.shared_store import temporary_store
from fedtl.training import private
from fedtl.training.private import noisy_summaries
from tests.experiment.private_silos import bench_of, data_of, same, silo_of, studies_of, task_of
from tests.privacy.patients import of_patients

NAME, WIDTH = "summary/ridge", 3
BOUND = 2**0.5
PRIVATE_RIDGE = METHODS["ridge"](clip=1.0, dims=6)


@dataclass(frozen=True)
class Scores(Summary):
    """The scores of the model, which change with training."""

    name: str = "scores"
    bound: float = 0.5

    def rows(self, out):
        return out.scores

    def shape(self, features, width):
        return (width,)


@dataclass(frozen=True)
class Centred(Scores):
    """The scores minus their mean in the batch: not a vector of one row."""

    def rows(self, out):
        return out.scores - out.scores.mean(0)


@dataclass(frozen=True)
class PerSize(Scores):
    """The scores divided by the size of the batch."""

    def rows(self, out):
        return out.scores / len(out.scores)


def parts_of(vectors, units=None):
    yield vectors, units


# One unit


def vectors_of(features, y, form, width=WIDTH):
    batch = Batch(features, y, torch.zeros(len(y)))
    return RidgeSums(form).rows(Forward(batch, Computed(Pass(features, torch.zeros(len(y), width)))))


@pytest.mark.parametrize("classes", [True, False])
@pytest.mark.parametrize("form", [Rows(clip=1.0), Rows(clip=5.0), Rows(Projection(3), 2.0)])
def test_no_row_is_longer_than_the_bound_and_some_row_reaches_it(form, classes):
    """A search by gradient ascent from many scales; values and labels at random and at extremes."""
    generator = torch.Generator().manual_seed(0)
    longest = 0.0
    for scale, size in product((1e-8, 1.0, 30.0, 1e12), (0.1, 3.0, 1e38)):
        features = torch.randn(64, 5, generator=generator, dtype=torch.float64) * scale
        features.requires_grad_()
        values = torch.randn(64, generator=generator) * size
        y = torch.randint(WIDTH, (64,), generator=generator) if classes else values
        optimizer = torch.optim.Adam([features], lr=0.3 * scale)
        for _ in range(40):
            optimizer.zero_grad()
            norms = vectors_of(features, y, form, WIDTH if classes else 1).norm(dim=1)
            (-norms.sum()).backward()
            optimizer.step()
            longest = max(longest, float(norms.detach().max()))
    assert longest <= BOUND * (1 + 1e-9)
    # A value is scaled with its row, which in clips is 1 long from the length of the clip on.
    assert longest > 0.99 * (BOUND if classes else (1 + 1 / form.clip**2) ** 0.5)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -3e38, 1e30])
@pytest.mark.parametrize("units", [None, torch.tensor([0, 1, 2, 2])])
def test_one_unit_changes_a_sum_by_at_most_the_bound(odd, units):
    quiet = SummaryRelease("any", 1e-9, 0.5, 3)
    rows = torch.tensor([[0.1, 0.2], [3.0, 4.0], [odd, 1.0], [odd, odd]], dtype=torch.float64)
    inside = units if units is not None else torch.arange(4)
    whole = noisy_mean(parts_of(rows, units), quiet, Noise(), CanarySums(None)).double()
    for unit in inside.unique():
        kept = inside != unit
        fewer = None if units is None else units[kept].unique(return_inverse=True)[1]
        without = noisy_mean(parts_of(rows[kept], fewer), quiet, Noise(), CanarySums(None)).double()
        assert float((whole - without).norm()) * quiet.units <= 0.5 + 1e-6


@pytest.mark.parametrize("form", [(), (2, 3)])
def test_the_noise_is_that_of_the_release_on_every_entry(form):
    release = SummaryRelease("any", 3.0, 0.5, 4)
    rows = torch.zeros(4, *(form or (6,)))
    draws = torch.stack(
        [noisy_mean(parts_of(rows), release, Noise(), CanarySums(None)).flatten() for _ in range(2000)]
    )
    assert draws.std(0) == pytest.approx(torch.full((6,), 3.0 * 0.5 / 4), rel=0.08)
    assert float(draws.mean()) == pytest.approx(0, abs=0.375 * 5 / 12000**0.5)
    correlation = torch.corrcoef(draws.T) - torch.eye(6)
    assert float(correlation.abs().max()) < 0.12


def test_an_update_is_the_exact_mean_and_noise_and_n_is_the_public_number(tmp_path):
    trainer = bench_of(PRIVATE_RIDGE)
    silo = silo_of(trainer, tmp_path, rounds=1)
    (release,) = silo.guarantee.releases.summaries
    delta = trainer.fit(silo, task_of(trainer)).delta[NAME].double()
    (plain,) = (silo_of(trainer, tmp_path / "b", rounds=1),)
    plain.guarantee = None
    exact = trainer.fit(plain, task_of(trainer)).delta[NAME].double()
    z = (delta - exact) / release.mean_noise_std
    assert release.bound == pytest.approx(BOUND)
    assert release.units == 60
    # chi-square with 49 degrees of freedom: within five standard deviations
    assert float(z.square().sum()) == pytest.approx(len(z), abs=5 * (2 * len(z)) ** 0.5)
    # A row that counts as zeros changes the sum by its own vector; the mean is still over 60.
    train = silo.data.train
    quiet = replace(release, noise_multiplier=1e-9)
    means = []
    for y in (train.y, train.y.where(torch.arange(60) > 0, -1)):
        other = silo_of(
            trainer, tmp_path / f"c{len(means)}", replace(silo.data, train=Dataset(train.x, y)), 1
        )
        releases = replace(other.guarantee.releases, summaries=(quiet,))
        other.guarantee = replace(other.guarantee, releases=releases)
        means.append(trainer.fit_unaccounted(other, task_of(trainer)).delta[NAME].double())
    assert float((means[0] - means[1]).norm()) * 60 == pytest.approx(BOUND, rel=1e-3)


def test_a_unit_of_many_rows_counts_as_one(tmp_path):
    trainer = bench_of(PRIVATE_RIDGE)
    data = of_patients(data_of())
    silo = silo_of(trainer, tmp_path, data, rounds=1, unit="patient")
    (release,) = silo.guarantee.releases.summaries
    assert release.units == data.train.unit_count < len(data.train)
    quiet = replace(silo.guarantee.releases, summaries=(replace(release, noise_multiplier=1e-9),))
    means = []
    for scale in (1.0, -50.0):  # all rows of the first patient become others
        x = torch.where((data.train.units == 0)[:, None, None, None], scale * data.train.x, data.train.x)
        other = replace(data, train=replace(data.train, x=x))
        silo = silo_of(trainer, tmp_path / str(scale), other, rounds=1, unit="patient")
        silo.guarantee = replace(silo.guarantee, releases=quiet)
        means.append(trainer.fit_unaccounted(silo, task_of(trainer)).delta[NAME].double())
    assert 0 < float((means[0] - means[1]).norm()) * release.units <= 2 * BOUND + 1e-4


# What it costs, and how often it leaves


def test_without_training_one_gaussian_release_takes_the_whole_budget(tmp_path):
    trainer = bench_of(PRIVATE_RIDGE)
    its = silo_of(trainer, tmp_path, rounds=5, epsilon=2.0).guarantee
    (release,) = its.releases.summaries
    # the closed form of Dong, Roth and Su (2022) for one Gaussian mechanism
    assert 1 / release.noise_multiplier == pytest.approx(accounting.gaussian_mu(2.0, its.delta), rel=2e-3)
    assert 1.98 < its.epsilon <= 2.0
    assert its.schedule() == (release.event,)
    assert its.training.all_steps == 0


def test_it_is_charged_before_it_leaves_once_and_replayed(tmp_path, monkeypatch):
    trainer = bench_of(PRIVATE_RIDGE)
    silo = silo_of(trainer, tmp_path, rounds=3)
    (release,) = silo.guarantee.releases.summaries
    charged_before = []

    def watched(*args):
        charged_before.append(tuple(studies_of(silo)["study"].events))
        return noisy_summaries(*args)

    monkeypatch.setattr(private, "noisy_summaries", watched)
    task = task_of(trainer)
    first = trainer.fit(silo, task)
    assert charged_before == [(release.event,)]
    assert first.delta[NAME].any()
    assert same(trainer.fit(silo, task).delta, first.delta)  # the stored reply
    assert len(charged_before) == 1
    shared = {name: tensor + first.delta[name] for name, tensor in task.shared.items()}
    later = trainer.fit(silo, replace(task, round=2, shared=shared))
    assert not later.delta[NAME].any()
    assert tuple(studies_of(silo)["study"].events) == (release.event,)
    assert silo.labels[NAME] == "released"


def test_a_summary_that_changes_with_training_is_released_and_charged_in_every_round(tmp_path):
    trainer = bench_of(Method(summaries=(Scores(),)))
    silo = silo_of(trainer, tmp_path, rounds=3, epsilon=4.0)
    (release,) = silo.guarantee.releases.summaries
    assert (release.bound, release.every_round) == (0.5, True)
    shares = 3 / release.noise_multiplier**2 / accounting.gaussian_mu(4.0, silo.guarantee.delta) ** 2
    assert shares == pytest.approx(0.15)
    shared = task_of(trainer).shared
    for number in (1, 2):
        delta = trainer.fit(silo, task_of(trainer, number, shared=shared)).delta
        assert delta["summary/scores"].any()
        shared = {name: tensor + delta[name] for name, tensor in shared.items()}
    events = studies_of(silo)["study"].events
    assert [event.steps for event in events if replace(event, steps=1) == release.event] == [2]
    assert silo.guarantee.epsilon <= 4.0
    without = silo_of(bench_of(), tmp_path / "b", rounds=3, epsilon=4.0).guarantee
    assert silo.guarantee.training.noise_multiplier > without.training.noise_multiplier


# Summaries that domains are aligned by


@pytest.mark.parametrize("name", ["silo_mmd", "jan", "silo_coral", "jdot"])
def test_a_summary_for_alignment_is_released_whole_and_with_its_noise(name):
    """Its vectors are within the bound, so only noise is between the mean and what is released."""
    (summary,) = METHODS[name]().summaries
    generator = torch.Generator().manual_seed(0)
    features, scores = (torch.randn(50, size, generator=generator, dtype=torch.float64) for size in (8, 3))
    y = torch.cat([torch.arange(30) % 3, torch.full((20,), -1)])
    out = Forward(Batch(features, y, (y < 0).float()), Computed(Pass(features, scores)))
    rows, release = summary.rows(out), SummaryRelease(name, 0.5, summary.bound, len(y))
    noisy = noisy_mean(parts_of(rows), release, Noise(), CanarySums(None))
    assert noisy.shape == rows.shape[1:]
    noise = (noisy - rows.mean(0)).flatten() / release.mean_noise_std
    # The standard deviation of a sample's standard deviation is 1 / sqrt(2 n); none of ten thousand runs is 5 of them away.
    assert float(noise.std()) == pytest.approx(1, abs=5 / (2 * len(noise)) ** 0.5)


def test_soft_labels_between_silos_train_privately(tmp_path):
    method = Method().plus(SoftLabels(10.0))
    assert not list(private_problems(method))
    trainer = bench_of(method)
    silo = silo_of(trainer, tmp_path, rounds=3, epsilon=4.0)
    (release,) = silo.guarantee.releases.summaries
    assert (release.bound, release.every_round) == (1.0, True)
    shared = task_of(trainer).shared
    for number in (1, 2):
        delta = trainer.fit(silo, task_of(trainer, number, shared=shared)).delta
        assert delta["summary/soft_labels"].any()
        shared = {name: tensor + delta[name] for name, tensor in shared.items()}
    assert silo.labels["summary/soft_labels"] == "released"


# What is refused


def test_rows_without_a_bound_are_refused(tmp_path):
    (problem,) = private_problems(METHODS["ridge"]())
    assert "method.clip" in problem
    trainer = bench_of(METHODS["ridge"]())
    silo = silo_of(trainer, tmp_path)
    with pytest.raises(ConfigError, match=r"method\.clip"):
        trainer.fit(silo, task_of(trainer))
    assert not silo.guarantee.account.path.exists()
    assert not list(private_problems(METHODS["ridge"](clip=1.0)))


@pytest.mark.parametrize(("summary", "what"), [(Centred(), "other records"), (PerSize(), "the size")])
def test_vectors_that_mix_rows_are_refused_and_cost_nothing(summary, what, tmp_path):
    trainer = bench_of(Method(phases=(Phase(EVERYTHING),), summaries=(summary,)))
    silo = silo_of(trainer, tmp_path)
    with pytest.raises(ConfigError, match=what):
        trainer.fit(silo, task_of(trainer))
    assert not silo.guarantee.account.path.exists()


def test_silos_and_rounds_never_share_noise(tmp_path):
    trainer = bench_of(PRIVATE_RIDGE)
    noises = []
    for name in ("a", "b", "a2"):
        silo = silo_of(trainer, tmp_path / name, data_of(), rounds=1, name=name[0], epsilon=0.05)
        noises.append(trainer.fit(silo, task_of(trainer)).delta[NAME])
    for one in range(3):
        for other in range(one):
            cosine = torch.nn.functional.cosine_similarity(noises[one], noises[other], 0)
            assert abs(float(cosine)) < 0.7


# A whole run


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    settings = [
        *("rounds=2", "data.limit=60", "engine.name=serial", 'data.silos=["plain", "faint"]'),
        *("method.name=ridge", "method.clip=1.0", "method.centre=true", "method.dims=8"),
        *("privacy.epsilon=3", "privacy.tuning=public", "audit.canaries=400", "audit.transcript=2"),
    ]
    folder = RunFolder.create(tmp_path_factory.mktemp("ridge") / "run", load_experiment("digits", settings))
    return folder, run(folder.experiment(), folder)


def test_a_run_states_what_it_spent_and_its_documents_agree(ran):
    folder, result = ran
    for name, claim in result.privacy.silos.items():
        assert 2.9 < claim.epsilon <= 3.0
        assert claim.epsilon_charged == pytest.approx(claim.epsilon)
        assert claim.steps_a_round == 0
        assert claim.summary_expected_noise == pytest.approx(claim.summary_noise * BOUND / claim.units)
        documents = RunDocuments(
            silo=name,
            study=folder.path.name,
            ledger=folder.silo(name) / "ledger.sqlite",
            claim=claim,
            answered=[1, 2],
            messages=read_transcript(folder.path / TRANSCRIPT),
            canaries=[],
            seed=0,
            rounds=2,
        )
        assert not failed(check_documents(documents), 0.05)


def test_the_canaries_of_a_run_confirm_noise_and_sensitivity(ran):
    folder, result = ran
    for name, claim in result.privacy.silos.items():
        released = read_released_summaries(folder.silo(name) / "canaries")
        assert released.sums.shape == (1, 400)  # the second round releases nothing
        checks = {check.name: check for check in summary_conformance(name, released, claim)}
        assert checks["noise on summaries"].value == pytest.approx(1, abs=0.2)
        assert checks["sensitivity of summaries"].value == pytest.approx(1, abs=0.3)
        assert not failed(checks.values(), 1e-4)
        louder = replace(claim, summary_noise=2 * claim.summary_noise)
        assert [one.name for one in failed(summary_conformance(name, released, louder), 1e-4)] == [
            "noise on summaries"
        ]
        twice = replace(released, sums=released.sums + released.member)
        assert "sensitivity of summaries" in [
            one.name for one in failed(summary_conformance(name, twice, claim), 1e-4)
        ]


def test_lint_names_the_release_and_finds_nothing_wrong(ran):
    folder, _ = ran
    with temporary_store() as store:
        examined = examine(folder.experiment(), store)
        assert examined.refused == ()
        (line,) = [line for line in guarantee_claims(examined) if line.startswith("summaries")]
    assert "once" in line
    assert "1.41" in line
