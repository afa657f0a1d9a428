"""What a silo can train on a few labelled rows: a model of its own, or the received one with everything tuned."""

from dataclasses import replace
from math import ceil

import torch

from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.messages import Task
from fedtl.methods.base import Phase
from fedtl.methods.ridge import RidgeHead, is_linear
from fedtl.methods.tune import Tune
from fedtl.models.dp_norm import restore_state
from fedtl.models.roles import EVERYTHING
from fedtl.models.state import State
from fedtl.training.at_home import HomeSite, alone_trainer
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer


def with_few_labels(data: SiloDataset, rows: torch.Tensor) -> SiloDataset:
    """Return the silo with the labels of these training rows only; the other rows are inputs without labels, and none validates."""
    others = torch.ones(len(data.train), dtype=torch.bool)
    others[rows] = False
    hidden = [data.train.x[others]] + ([data.target] if data.target is not None and data.one_domain else [])
    return replace(
        data,
        train=data.train.take(rows),
        val=Dataset(data.val.x[:0], data.val.y[:0]),
        target=torch.cat(hidden),
        one_domain=True,
    )


def passes(data: SiloDataset, few: SiloDataset, batch_size: int) -> int:
    """
    Return a number of epochs over the few labelled rows. It is chosen so that together they have about the same number of steps as one
    epoch over all training rows, because few rows should not get less training than many.
    """
    return max(1, round(ceil(len(data.train) / batch_size) / ceil(len(few.train) / batch_size)))


def alone_on_few(
    trainer: Trainer, name: str, few: SiloDataset, epochs: int, repeats: int, seed: int
) -> tuple[Trainer, State]:
    """
    Return the model that a silo trains alone on its few labels as ``local`` does: ``epochs`` at the full rate, and then tuned with a
    falling one. Each epoch is repeated ``repeats`` times (``passes``). It has the exact statistics of all its inputs. Also return
    the trainer that scores it.
    """
    own = alone_trainer(trainer)
    silo, task = Silo(name, few, {}, b""), Task("alone", 1, 1, seed, {})
    state = own.train(silo, own.initial(few.width), Phase(EVERYTHING, epochs * repeats), task)
    return own, _tuned(HomeSite(own, silo, task, state, 1), own.adapt(state, few.inputs, few.width), repeats)


def tuned_on_few(
    trainer: Trainer, name: str, few: SiloDataset, state: State, repeats: int, seed: int
) -> tuple[Trainer, State]:
    """
    Return the model of ``state`` with a ridge head on the few labels, and then everything tuned on them as at a silo after the last
    round (``Tune``), each epoch ``repeats`` times (``passes``), and the trainer that scores it.
    """
    own = alone_trainer(trainer)
    silo, task = Silo(name, few, {}, b""), Task("tuned", 1, 1, seed, {})
    if trainer.alone is not None:  # the private model's norms have other names
        state = restore_state(trainer.net(few.width), state)
    state = {key: state[key] for key in own.initial(few.width)}
    site = HomeSite(own, silo, task, state, 0)
    if is_linear(state):
        state = RidgeHead()(site, state, {})
    return own, _tuned(site, state, repeats)


def _tuned(site: HomeSite, state: State, repeats: int) -> State:
    """Return the state tuned as by default. No row validates, so the number of epochs is not chosen."""
    tune = Tune(ridge_head=False)
    return replace(tune, epochs=tune.epochs * repeats)(site, state, {})
