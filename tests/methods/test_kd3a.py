"""KD3A against loops in numpy: the vote, its loss and quality, and the server's step; partial alignment; the laws."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from fedtl.errors import ConfigError
from fedtl.federation.rounds import FederationConfig, ServerState, run_rounds
from fedtl.messages import Update
from fedtl.methods.base import Method
from fedtl.methods.group_means import GroupMeans, group_means
from fedtl.methods.jdot import JointTransport
from fedtl.methods.kd3a import KnowledgeVote, VoteQuality, by_discrepancy, quality, vote
from fedtl.methods.losses import Batch, Forward, Pass, mean_loss
from fedtl.methods.private import private_problems
from fedtl.methods.random_features import unit
from fedtl.methods.registry import METHODS
from fedtl.methods.server import ServerStep
from fedtl.methods.sets import MODEL, RECEIVED, model_part, part
from fedtl.methods.silo_mmd import SiloMeanDiscrepancy
from fedtl.methods.source_models import Source
from fedtl.models.roles import Role
from fedtl.training.loop import TrainingConfig
from fedtl.training.trainer import Trainer
from tests.methods.test_between_silos import CLASSES, labels, out_of, received
from tests.methods.test_embeddings import normal
from tests.training.silos import InProcess, data_of, mlp, same, silo_at

MODELS, SURE = 4, 0.6


def vote_by_hand(probabilities, sure):
    """Feng et al. (2021), one row at a time."""
    answers, counts = [], []
    for of_row in np.swapaxes(probabilities, 0, 1):
        confident = [p for p in of_row if p.max() >= sure]
        winner = np.sum(confident, 0).argmax() if confident else -1
        supporting = [p for p in confident if p.argmax() == winner]
        answers.append(np.mean(supporting, 0) if supporting else np.zeros(of_row.shape[1]))
        counts.append(len(supporting))
    return np.array(answers), np.array(counts)


def probabilities(rows, seed=0):
    return (normal(MODELS, rows, CLASSES, seed=seed) * 2).softmax(2)


def test_the_vote_is_that_of_the_paper():
    given = probabilities(200)
    answer, count = vote(given, SURE)
    wanted, counts = vote_by_hand(given.numpy(), SURE)
    np.testing.assert_allclose(answer, wanted)
    assert count.tolist() == counts.tolist()
    assert set(counts) == {0, 1, 2, 3, 4}
    np.testing.assert_allclose(quality(given, SURE), counts * wanted.max(1))


class Models:
    """A model and source models with given scores for a row, which its input numbers."""

    aux = {}

    def __init__(self, scores, name=MODEL):
        self.scores, self.name = scores, name

    def run(self, x):
        scores = self.scores[self.name][x[:, 0].long()]
        return Pass(scores, scores)

    def by(self, name):
        return Models(self.scores, name)


def voted(y, sources, empty=False):
    rows = torch.arange(len(y), dtype=torch.float64)[:, None]
    scores = {f"source_{k + 1}": one.log() for k, one in enumerate(sources)}
    scores[MODEL] = normal(len(y), CLASSES, seed=9)
    scores[RECEIVED] = normal(len(y), CLASSES, seed=10)
    if empty:  # a slot that no silo has filled
        scores[f"source_{len(sources)}"] = scores[RECEIVED]
    return Forward(Batch(rows, y, (y < 0).double()), Models(scores)), scores[MODEL]


def test_rows_without_labels_are_trained_on_the_vote():
    sources, y = probabilities(30), labels(10, 20)
    out, scores = voted(y, sources)
    term = KnowledgeVote(MODELS, SURE, 0.7)
    answer, count = vote_by_hand(sources.numpy()[:, 10:], SURE)
    logs = scores.log_softmax(1).numpy()[10:]
    wanted = -0.7 * (answer * logs).sum(1) * count / MODELS
    np.testing.assert_allclose(term.losses(out)[10:], wanted)
    assert mean_loss(term, out).item() == pytest.approx(wanted.mean())
    labelled, _ = voted(labels(10, 0), sources)
    assert mean_loss(term, labelled).item() == 0
    fewer, _ = voted(y, sources, empty=True)
    answer, count = vote_by_hand(sources.numpy()[:-1, 10:], SURE)
    np.testing.assert_allclose(term.losses(fewer)[10:], -0.7 * (answer * logs).sum(1) * count / (MODELS - 1))


def test_the_quality_that_crosses_is_of_the_vote_with_and_without_each_model():
    sources, y = probabilities(30), labels(10, 20)
    out, _ = voted(y, sources)
    summary = VoteQuality(MODELS, SURE)
    rows = summary.rows(out)
    assert rows.shape[1:] == summary.shape(CLASSES, CLASSES)
    assert float(rows.flatten(1).norm(dim=1).max()) <= 1 + 1e-12
    (_, found), share = group_means(rows.mean(0))
    np.testing.assert_allclose(share, [1 / 3, 2 / 3])
    own = sources.numpy()[:, 10:]
    every = [own, *(np.delete(own, k, 0) for k in range(MODELS))]
    wanted = [(lambda v: (v[1] * v[0].max(1)).mean())(vote_by_hand(one, SURE)) for one in every]
    np.testing.assert_allclose(found * MODELS * (MODELS + 1) ** 0.5, wanted)
    sure = torch.eye(CLASSES, dtype=torch.float64)[[0] * 30].expand(MODELS, 30, CLASSES) * 0.999 + 1e-9
    longest = summary.rows(voted(y, sure)[0]).flatten(1).norm(dim=1).max()
    assert 0.9 < float(longest) <= 1


# The server's step


def summary_of(labelled, unlabelled, vectors):
    """The summary of a silo with so many rows of each kind, which all have the vector of their kind."""

    class Fixed(GroupMeans):
        name = "any"

        def vectors(self, out):
            return vectors[(out.batch.domain > 0).long()]

        def numbers(self, features, width):
            return vectors.shape[1]

    return Fixed().rows(out_of(normal(labelled + unlabelled, 2), labels(labelled, unlabelled))).mean(0)


def round_of(method, silos, name, before=None):
    """The shared tensors before, and the updates: by silo its weight, its model and its summary."""
    zero = {"w": torch.tensor([1.0, 2.0], dtype=torch.float64)}
    slots = {f"{slot.name}/w": zero["w"].clone() for slot in method.slots}
    first = {**zero, **slots, f"summary/{name}": torch.zeros_like(next(iter(silos.values()))[2])}
    first = before or first
    still = {key: torch.zeros_like(tensor) for key, tensor in slots.items()}
    updates = [
        Update(
            silo,
            1,
            still | {"w": w - first["w"], f"summary/{name}": s - first[f"summary/{name}"]},
            weight,
            {},
        )
        for silo, (weight, w, s) in silos.items()
    ]
    roles = {
        key: Role.SUMMARY if "summary" in key else Role.EXTRA if "/" in key else Role.BODY for key in first
    }
    return first, updates, roles


def test_the_server_keeps_each_source_and_weighs_it_by_its_consensus_focus():
    method = METHODS["kd3a"](sources=3)
    kinds = torch.zeros(2, 4, dtype=torch.float64)
    kinds[1] = torch.tensor([0.5, 0.3, 0.5, 0.1])  # without the third one the vote would be far worse
    own = [torch.tensor(v, dtype=torch.float64) for v in ([1.0, 0.0], [5.0, 5.0], [0.0, 3.0], [9.0, 9.0])]
    silos = {
        "a": (10.0, own[0], summary_of(10, 0, kinds)),
        "b": (30.0, own[1], summary_of(30, 0, kinds)),
        "target": (20.0, own[3], summary_of(0, 20, kinds)),
        "c": (20.0, own[2], summary_of(20, 0, kinds)),
    }
    first, updates, roles = round_of(method, silos, "vote_quality")
    after, memory = method.server(first, updates, roles, {})
    focus = np.array([0.2, 0.0, 0.4])  # a, b, c
    counts = np.array([10, 30, 20]) * focus
    counts *= 60 / counts.sum()
    wanted = (counts @ np.stack(own[:3]) + 20 * own[3].numpy()) / 80
    np.testing.assert_allclose(after["w"], wanted)
    assert memory["sources"] == {"a": 0, "b": 1, "c": 2}
    for number, model in enumerate(own[:3], 1):
        np.testing.assert_allclose(after[f"source_{number}/w"], model)
    _, target = group_means(after["summary/vote_quality"])
    assert float(target[1]) == pytest.approx(0.25)  # the mean over rows, as without shares

    # A round without "a": its model stays, and the others keep their numbers.
    silos = {name: silos[name] for name in ("b", "c", "target")}
    _, updates, _ = round_of(method, silos, "vote_quality", after)
    later, memory = method.server(after, updates, roles, memory)
    np.testing.assert_allclose(later["source_1/w"], own[0])
    assert memory["sources"] == {"a": 0, "b": 1, "c": 2}


def test_a_silo_that_joins_later_gets_a_slot_of_its_own():
    step, kinds = METHODS["select_start"](sources=2).server, torch.zeros(2, 2, dtype=torch.float64)
    silos = {
        name: (1.0, torch.full((2,), float(n)), summary_of(4, 0, kinds)) for n, name in enumerate("ab", 5)
    }
    before, memory = None, {}
    for name in "ab":
        first, updates, roles = round_of(
            METHODS["select_start"](sources=2), {name: silos[name]}, "any", before
        )
        before, memory = step(first, updates, roles, memory)
    assert memory["sources"] == {"a": 0, "b": 1}
    assert (before["source_1/w"].tolist(), before["source_2/w"].tolist()) == ([5.0, 5.0], [6.0, 6.0])


def test_more_silos_than_sources_are_refused_and_empty_slots_hold_the_mean():
    kinds = torch.zeros(2, 3, dtype=torch.float64)
    models = torch.tensor([[1.0, 0.0], [3.0, 4.0], [2.0, 2.0]], dtype=torch.float64)
    silos = {name: (1.0, w, summary_of(4, 0, kinds)) for name, w in zip("abc", models, strict=True)}
    method = METHODS["kd3a"](sources=2)
    first, updates, roles = round_of(method, silos, "vote_quality")
    with pytest.raises(ConfigError, match="set it to 3"):
        method.server(first, updates, roles, {})
    roomy = METHODS["kd3a"](sources=4)
    kinds = torch.zeros(2, 5, dtype=torch.float64)
    silos = {name: (1.0, w, summary_of(4, 0, kinds)) for name, w in zip("abc", models, strict=True)}
    first, updates, roles = round_of(roomy, silos, "vote_quality")
    after, _ = roomy.server(first, updates, roles, {})
    np.testing.assert_allclose(after["w"], models.mean(0))  # nobody votes yet
    np.testing.assert_allclose(after["source_4/w"], models.mean(0))


def test_near_sources_count_more():
    kinds = [torch.tensor([[x, 0.0], [0.9, 0.1]], dtype=torch.float64) for x in (0.8, 0.0)]
    method = METHODS["kd3a"](sources=2, share_by="discrepancy")
    silos = {
        "far": (10.0, torch.zeros(2), summary_of(10, 0, kinds[1])),
        "near": (10.0, torch.zeros(2), summary_of(10, 0, kinds[0])),
        "target": (5.0, torch.zeros(2), summary_of(0, 5, kinds[0])),
    }
    _, updates, _ = round_of(method, silos, "source_nearness")
    averaged = {"summary/source_nearness": sum(one.weight * silos[one.silo][2] for one in updates) / 25}
    found = [
        Source(number, one, {"summary/source_nearness": silos[one.silo][2]})
        for number, one in enumerate(updates[:2])
    ]
    apart = np.array([0.9**2 + 0.1**2, 0.1**2 + 0.1**2])
    np.testing.assert_allclose(by_discrepancy(found, averaged), np.exp(-apart / apart.mean()))
    nobody = {"summary/source_nearness": silos["far"][2]}
    assert by_discrepancy(found, nobody) == [1.0, 1.0]


# Laws


def after_two_rounds(method):
    """The shared tensors of three silos with labels alone, by the method's own step."""
    trainer = Trainer(mlp(), method, TrainingConfig(batch_size=8))
    silos = [
        silo_at(trainer, name, data_of(seed, 12 + seed, target=False)) for seed, name in enumerate("abc")
    ]
    first, _ = trainer.partition.split(trainer.initial(CLASSES))
    plan = FederationConfig("test", 0, 2, method.server or ServerStep())
    rounds = run_rounds(InProcess(trainer, silos), plan, ServerState(0, first), trainer.partition.roles)
    return list(rounds)[-1].after.shared


@pytest.fixture(scope="module")
def fedavg():
    return after_two_rounds(Method())


@pytest.mark.parametrize("settings", [{"share_by": "rows"}, {}])
def test_without_sure_models_it_is_fedavg(settings, fedavg):
    found = after_two_rounds(METHODS["kd3a"](sources=3, sure=1.0, **settings))
    assert same(model_part(found), fedavg)
    assert len({float(part(found, f"source_{number}")["head.bias"].sum()) for number in (1, 2, 3)}) == 3


def test_select_start_is_fedavg_until_rows_choose_among_the_models_of_all_silos(fedavg):
    method = METHODS["select_start"](sources=3)
    (step,) = method.finish
    sets = {f"source_{number}": {"w": torch.tensor(number)} for number in (1, 2, 3)}
    assert [int(other(sets)["w"]) for other in step.others] == [1, 2, 3]
    found = after_two_rounds(method)
    assert same(model_part(found), fedavg)
    models = [part(found, f"source_{number}") for number in (1, 2, 3)]
    weights = torch.tensor([12.0, 13.0, 14.0]) / 39
    mean = sum(weight * one["head.weight"] for weight, one in zip(weights, models, strict=True))
    torch.testing.assert_close(mean, fedavg["head.weight"])


def test_models_that_cross_are_refused_under_privacy():
    problems = " ".join(private_problems(METHODS["kd3a"]()))
    assert "source_1" in problems
    assert "KnowledgeVote" in problems


# Partial alignment


def test_jdot_transports_to_the_classes_that_the_rows_predict():
    term = JointTransport(1.0, labels=0.3, entropy=1e-3, iterations=3000, partial=True)
    features, y = normal(30, 6), labels(30, 0)
    summaries = received(term, out_of(features, y))
    far, scores = normal(5, 6, seed=1), normal(5, CLASSES, seed=2) + torch.tensor([0.0, 2.0, -9.0])
    z, mine = unit(features).numpy(), unit(far).numpy()
    prototypes = [z[y == label].mean(0) for label in range(CLASSES)]
    logs = scores.log_softmax(1).numpy()
    cost = [
        [((row - m) ** 2).sum() - 0.3 * logs[i, c] for c, m in enumerate(prototypes)]
        for i, row in enumerate(mine)
    ]
    shares = np.exp(logs).mean(0).clip(1e-4)
    sums = np.vstack([np.kron(np.eye(5), np.ones(3)), np.kron(np.ones(5), np.eye(3))])
    exact = linprog(np.ravel(cost), A_eq=sums, b_eq=[*np.full(5, 0.2), *(shares / shares.sum())])
    found = term.loss(out_of(far, labels(0, 5), scores, summaries)).item()
    assert found == pytest.approx(exact.fun, abs=1e-3 * np.log(15) + 1e-5)
    assert shares[2] < 0.01  # hardly any row has to go there; by the shares of all silos it is a third


def test_silo_mmd_compares_with_the_classes_that_the_rows_predict():
    term = SiloMeanDiscrepancy(0.7, partial=True, frequencies=50)
    features, y = normal(30, 6), labels(30, 0).clamp_max(1)  # the third class is nobody's
    summaries = received(term, out_of(features, y))
    both, scores = normal(9, 6, seed=1), normal(9, CLASSES, seed=2)
    out = out_of(both, labels(4, 5), scores, summaries)
    phi = term.embedding.of(out_of(features, y)).numpy()
    mine, p = term.embedding.of(out).numpy()[4:], scores.softmax(1).numpy()[4:].mean(0)[:2]
    reference = sum(p[c] * phi[y == c].mean(0) for c in (0, 1)) / p.sum()
    gram = mine @ mine.T
    squared = (gram.sum() - np.trace(gram)) / 20
    wanted = squared - 2 * mine.mean(0) @ reference + reference @ reference
    assert term.loss(out).item() == pytest.approx(0.7 * 5 / 9 * wanted, rel=1e-6)
    assert term.loss(out_of(both[:4], labels(4, 0), scores[:4], summaries)).item() == 0
