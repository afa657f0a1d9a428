"""
Onboards a silo that took no part in training: many episodes of a few labelled rows, each with every head, judged on the same
test rows. Nothing leaves the silo, and its test rows decide nothing.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import fedtl
from fedtl._util.randomness import numpy_generator
from fedtl.data.dataset import Dataset
from fedtl.data.prepare import Prepared
from fedtl.data.splits import at_random
from fedtl.errors import DataError
from fedtl.experiment.backbone import Backbone
from fedtl.experiment.episodes import Answers, scored
from fedtl.experiment.resemblance import resembling
from fedtl.methods.base import LabelledFeatures
from fedtl.methods.heads.base import Head
from fedtl.methods.heads.choose import HEADS, best_head, held_out_accuracy
from fedtl.methods.heads.relation import Relation
from fedtl.models.state import State
from fedtl.results.onboard import OnboardResult, ShotsResult
from fedtl.training.at_home import features_by
from fedtl.training.few_labels import alone_on_few, passes, tuned_on_few, with_few_labels

ALONE, TUNED, MIXED, RECEIVED, CHOSEN = "alone", "tuned", "mixed", "received", "chosen"
FIRST = next(iter(HEADS))  # where the support cannot choose
NO_RELATION = (
    "its network is trained in episodes of the silos that train; run the method protonet with relation = true"
)

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Episodes:
    """
    How many ``episodes`` of each number of ``shots`` there are. In the first ``alone`` the silo also trains its own model, and
    tunes the received one.
    """

    shots: tuple[int, ...]
    episodes: int
    alone: int
    seed: int


@dataclass(frozen=True)
class NewSilo:
    """
    The new silo with its features by the backbone. ``support`` and ``queries``: the features of the training rows that have a label
    and of the test rows. ``present``: the classes with a training row; labels of ``support`` and
    ``queries`` number these, and -1 is a class that is not among them.
    """

    backbone: Backbone
    name: str
    prepared: Prepared
    state: State
    support: LabelledFeatures
    queries: LabelledFeatures
    present: tuple[int, ...]

    @classmethod
    def of(cls, backbone: Backbone, name: str, prepared: Prepared) -> "NewSilo":
        """Adapt the statistics to all training inputs, and compute features. Raises DataError without labelled or test rows."""
        data, test = prepared.data, prepared.evaluation_set.test
        labelled = data.train.take(data.train.y >= 0)
        if not len(labelled) or not len(test):
            raise DataError(
                f"silo {name} has {len(labelled)} labelled training rows and {len(test)} test rows; it needs both"
            )
        state, trainer = backbone.state(data), backbone.trainer
        present = tuple(labelled.y.unique().tolist())
        number = torch.full((data.width,), -1)
        number[list(present)] = torch.arange(len(present))

        def features(rows: Dataset) -> LabelledFeatures:
            made = features_by(trainer, state, rows, data)
            return LabelledFeatures(made.features, number[made.y])

        return cls(backbone, name, prepared, state, features(labelled), features(test), present)

    @property
    def width(self) -> int:
        return len(self.present)

    def draw(self, shots: int, episode: int, seed: int) -> Tensor:
        """Return the rows of one support set: ``shots`` of each class, or all that it has."""
        rng = numpy_generator("episode", seed, self.name, shots, episode)
        rows: list[int] = []
        for number in range(self.width):
            own = (self.support.y == number).nonzero()[:, 0]
            drawn, _ = at_random(len(own), shots, rng)
            rows += own[torch.from_numpy(drawn)].tolist()
        return torch.tensor(rows)

    def received(self) -> Tensor | None:
        """Return the scores [N, width] of the shared head on test rows; None where there is none for any of the classes."""
        data, known = self.prepared.data, self.backbone.classes
        labels = [data.classes[number] for number in self.present]
        if not set(labels) & set(known):
            return None
        theirs = replace(data, classes=known)
        model = self.backbone.state(theirs)
        scores = self.backbone.trainer.scores(model, self.prepared.evaluation_set.test.x, theirs)
        lowest = scores.min(1).values - 1  # for a class that the head does not have
        return torch.stack([scores[:, known.index(one)] if one in known else lowest for one in labels], 1)

    def trained(self, rows: Tensor, seed: int) -> dict[str, Tensor]:
        """
        Return the scores [N, width] on test rows of the models that are trained on these labelled rows only, and of the mean of their
        probabilities, which is what a silo that trains with the others uses unless its validation rows say otherwise.
        """
        trainer, experiment = self.backbone.trainer, self.backbone.experiment
        known = (self.prepared.data.train.y >= 0).nonzero()[:, 0]
        few = with_few_labels(self.prepared.data, known[rows])
        epochs = experiment.rounds * experiment.train.epochs
        repeats = passes(self.prepared.data, few, trainer.training.batch_size)
        models = {
            ALONE: alone_on_few(trainer, self.name, few, epochs, repeats, seed),
            TUNED: tuned_on_few(trainer, self.name, few, self.state, repeats, seed),
        }
        x, present = self.prepared.evaluation_set.test.x, list(self.present)
        scores = {name: own.scores(state, x, few)[:, present] for name, (own, state) in models.items()}
        together = torch.stack([one.log_softmax(1) for one in scores.values()])
        return scores | {MIXED: together.logsumexp(0)}  # up to a constant


def onboard(silo: NewSilo, plan: Episodes, progress: Progress, match: bool = False) -> OnboardResult:
    """
    Return the accuracy of every head for each number of shots. ``progress``: episodes done, of how many, with how many shots.
    ``match``: also return which silos of the run resemble this one, by the first support with the most shots.
    """
    clock = time.perf_counter()
    heads, left_out = _heads(silo.backbone)
    received = silo.received()
    if received is None:
        left_out[RECEIVED] = (
            "each silo keeps its own head"
            if not silo.backbone.classes
            else "the shared head has none of this silo's classes"
        )
    counts = {shots: _episode_count(silo, shots, plan.episodes) for shots in plan.shots}
    done, parts = 0, list[ShotsResult]()
    for shots, count in counts.items():
        answers = Answers()
        for episode in range(count):
            progress(done, sum(counts.values()), f"{shots} shots")
            _add_episode(answers, silo, heads, received, plan, shots, episode)
            done += 1
        parts.append(_shots_result(silo, shots, answers))
    progress(done, done, "")
    resembles = _resembling(silo, plan, progress) if match else {}
    result = _result(silo, plan, parts, left_out, time.perf_counter() - clock)
    return replace(result, resembles=resembles)


def _heads(backbone: Backbone) -> tuple[dict[str, Head], dict[str, str]]:
    """Return the heads, and why others are left out."""
    if (module := backbone.relation) is None:
        return dict(HEADS), {"relation": NO_RELATION}
    return {**HEADS, "relation": Relation(module)}, {}


def _resembling(silo: NewSilo, plan: Episodes, progress: Progress) -> dict[str, float]:
    rows = silo.draw(plan.shots[-1], 0, plan.seed)
    labels = tuple(silo.prepared.data.classes[number] for number in silo.present)
    support = LabelledFeatures(silo.support.features[rows], silo.support.y[rows])
    return resembling(silo.backbone, support, labels, progress)


def _episode_count(silo: NewSilo, shots: int, wanted: int) -> int:
    """Return how many episodes there are: one where every episode would have the same rows."""
    return 1 if int(torch.bincount(silo.support.y).max()) <= shots else wanted


def _add_episode(
    answers: Answers,
    silo: NewSilo,
    heads: Mapping[str, Head],
    received: Tensor | None,
    plan: Episodes,
    shots: int,
    episode: int,
) -> None:
    rows = silo.draw(shots, episode, plan.seed)
    support = LabelledFeatures(silo.support.features[rows], silo.support.y[rows])
    scores = {name: head(support, silo.width, silo.queries.features) for name, head in heads.items()}
    held_out = {name: held_out_accuracy(head, support, silo.width) for name, head in heads.items()}
    known = {name: one for name, one in held_out.items() if one is not None}
    chosen = best_head(known) if known else ""
    scores[CHOSEN] = scores[chosen or FIRST]
    if received is not None:
        scores[RECEIVED] = received
    if episode < plan.alone and len(rows) > 1:  # BatchNorm needs two rows
        scores |= silo.trained(rows, plan.seed + episode)
    answers.add(scores, silo.queries.y, held_out, chosen)


def _shots_result(silo: NewSilo, shots: int, answers: Answers) -> ShotsResult:
    counts = torch.bincount(silo.support.y, minlength=silo.width).tolist()
    classes = [silo.prepared.data.classes[number] for number in silo.present]
    return ShotsResult(
        shots,
        sum(min(shots, count) for count in counts),
        len(answers.held_out),
        scored(answers, ALONE, FIRST),
        {name: count for name, count in zip(classes, counts, strict=True) if count < shots},
        answers.chosen_counts(),
    )


def _result(
    silo: NewSilo, plan: Episodes, parts: Sequence[ShotsResult], left_out: Mapping[str, str], seconds: float
) -> OnboardResult:
    backbone, data = silo.backbone, silo.prepared.data
    return OnboardResult(
        fedtl=fedtl.__version__,
        backbone=backbone.where,
        method=backbone.experiment.method.name,
        model=backbone.experiment.model.name,
        silo=silo.name,
        train=len(data.train),
        test=len(silo.queries),
        seed=plan.seed,
        classes=data.classes,
        new_classes=tuple(one for one in data.classes if one not in backbone.labels),
        missing_classes=tuple(one for number, one in enumerate(data.classes) if number not in silo.present),
        shots=tuple(parts),
        left_out=left_out,
        seconds=seconds,
    )
