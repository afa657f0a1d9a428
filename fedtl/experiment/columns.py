"""
The columns of a comparison: which methods are compared, with which settings, and how many trials each makes.

Yardsticks are columns too, but not ways to join: training alone, alone twice ("local ensemble"), on all rows
in one place ("pooled"), without training together ("probe"), and without inputs ("constant").
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, NamedTuple

from fedtl.errors import ConfigError
from fedtl.experiment.config.load import with_changes
from fedtl.experiment.config.model_schema import TrainSettings
from fedtl.experiment.config.resolve import method_of, wired, without_release
from fedtl.experiment.config.schema import ENSEMBLE, Experiment, MethodSettings, WireSettings
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.scores import NO_TERMS
from fedtl.experiment.side_results import CONSTANT
from fedtl.experiment.summary import LOCAL
from fedtl.experiment.tuning import Values, check_budgets, trial_values, with_set_values, with_values
from fedtl.experiment.wire_costs import form_label
from fedtl.simulation.settings import EngineSettings


class Repeat(NamedTuple):
    """One of the runs of a column: its seed, and with ``compare.folds`` which part of the rows it tests on."""

    seed: int
    fold: int = 0


class Kind(Enum):
    """How the result of a column is made."""

    TRAINED = "by a run"
    ENSEMBLE = "from two runs of local"
    CONSTANT = "from labels alone"


@dataclass(frozen=True)
class Column:
    """One column of the comparison. ``trials``: the values of each trial of its settings; none where nothing is tried."""

    label: str
    experiment: Experiment
    kind: Kind = Kind.TRAINED
    trials: tuple[Values, ...] = ()

    def at(self, repeat: Repeat) -> Experiment:
        """Return the experiment of one run."""
        if (folds := self.experiment.compare.folds) == 1:
            return with_changes(self.experiment, seed=repeat.seed)
        data = self.experiment.data.model_copy(update={"folds": folds, "fold": repeat.fold})
        compare = self.experiment.compare.model_copy(update={"folds": 1})
        return with_changes(self.experiment, seed=repeat.seed, data=data, compare=compare)

    def trial(self, number: int, repeat: Repeat) -> Experiment:
        """Return the experiment of one trial."""
        return with_values(self.at(repeat), self.trials[number])

    def folder(self, repeat: Repeat) -> str:
        return f"runs/{self._name}-{self._of(repeat)}"

    def trial_folder(self, number: int, repeat: Repeat) -> str:
        return f"trials/{self._name}-{number + 1}-{self._of(repeat)}"

    def _of(self, repeat: Repeat) -> str:
        fold = f"-fold{repeat.fold}" if self.experiment.compare.folds > 1 else ""
        return f"seed{repeat.seed}{fold}"

    @property
    def _name(self) -> str:
        return re.sub("[ ,:]+", "-", self.label)


def repeats(experiment: Experiment) -> list[Repeat]:
    """Return the runs of each column; the folds of a seed stand together."""
    compare = experiment.compare
    return [Repeat(seed, fold) for seed in compare.seeds for fold in range(compare.folds)]


def comparison_columns(experiment: Experiment) -> list[Column]:
    """
    Return a column for each listed method. The one that ``[method]`` configures keeps its settings; with further terms it has
    a second column without them, and with pretrained weights one from scratch. "constant" comes with "local". Where
    training is private and starts from public weights, "probe" is added: a head on the public backbone, without training
    together. Raises ConfigError.
    """
    if not experiment.data.val and experiment.privacy is None:
        raise ConfigError(
            "data.val = 0: compare chooses each silo's best method on validation rows; set data.val above 0"
        )
    engine = EngineSettings(name="serial", threads=experiment.engine.threads, stack=experiment.engine.stack)
    serial = with_changes(experiment, engine=engine)
    public = bool(experiment.model.weights or experiment.model.pretrain_on)
    added = ["probe"] if experiment.privacy and public else []
    methods = list(dict.fromkeys([*experiment.compare.methods, *added]))
    check_budgets(experiment.compare.tune, [name for name in methods if name != ENSEMBLE])
    columns = [column for name in methods for column in _columns_of(serial, name)]
    for column in columns:
        for number in range(len(column.trials)):
            column.trial(number, Repeat(experiment.seed))  # raises ConfigError before anything is trained
    return columns


def _columns_of(experiment: Experiment, name: str) -> Iterator[Column]:
    """Yield the column of a method, and those that come with it."""
    if name == ENSEMBLE:
        alone = next(_columns_of(experiment, LOCAL))
        yield replace(alone, label=ENSEMBLE, kind=Kind.ENSEMBLE, trials=())
        return
    own = name == experiment.method.name
    server = experiment.method.server if own else {"name": "mean"}
    method = experiment.method  # every method finishes its models in the same way
    plain = MethodSettings(name=name, server=server, tune=method.tune, choose=method.choose)
    plain = experiment.compare.with_value_of(plain)
    changes = _open(experiment, plain) if own else {"method": plain, **_open(experiment, plain)}
    chosen = with_set_values(with_changes(experiment, **changes), name)
    experiment = with_set_values(experiment, name) if own else experiment
    trials = tuple(trial_values(experiment.compare.tune, name))
    yield Column(name, chosen, trials=trials)
    for form in _forms(chosen):
        yield Column(form_label(name, form.dtype), with_changes(chosen, wire=form), trials=trials)
    if name == LOCAL:
        yield Column(CONSTANT, chosen, Kind.CONSTANT)
    if own and experiment.method.terms:
        bare = MethodSettings(**{**experiment.method.model_dump(), "terms": []})
        yield Column(NO_TERMS.format(name=name), with_changes(experiment, method=bare), trials=trials)
    if own and (experiment.model.weights or experiment.model.pretrain_on):
        scratch = {"weights": "", "pretrain_on": [], "freeze": 0, "adapters": None}
        model = experiment.model.model_copy(update=scratch)
        aside = [name for name in experiment.model.pretrain_on if ":" not in name]
        from_scratch = _without_silos(with_changes(experiment, model=model, train=_whole(experiment)), aside)
        yield Column(f"{name}, from scratch", from_scratch, trials=trials)


def _forms(experiment: Experiment) -> Iterator[WireSettings]:
    """Yield in which further forms a method's weights are sent; none for one that sends no weights."""
    own, names = experiment.wire, experiment.compare.wire
    others = dict.fromkeys(name for name in ("float32", *names) if name != own.dtype)
    if not (names or own.dtype != "float32") or experiment.method.is_absent:
        return
    method = method_of(experiment.method)
    for name in others:
        form = WireSettings(dtype=name, fraction=own.fraction if name == "top-k" else WireSettings().fraction)
        if (
            wired(method, own, experiment.method.name).wire.compresses
            or wired(method, form, experiment.method.name).wire.compresses
        ):
            yield form


def _open(experiment: Experiment, settings: MethodSettings) -> dict[str, Any]:
    """
    Return the changes that make the column of a baseline: it releases nothing, so it is never private. Without noise there
    is not a reason to train a few roles only.
    """
    if experiment.privacy is None or not _is_baseline(settings):
        return {}
    data, train = without_release(experiment.data), _whole(experiment)
    return {"privacy": None, "silo": {}, "data": data, "train": train}


def _whole(experiment: Experiment) -> TrainSettings:
    """Return ``[train]`` for a model that is trained as a whole."""
    return experiment.train.model_copy(update={"roles": []})


def _is_baseline(settings: MethodSettings) -> bool:
    if settings.is_absent:
        return False
    method = method_of(settings)
    return method.pool or not method.sends


def run_folders(experiment: Experiment, folder: RunFolder) -> dict[str, list[RunFolder]]:
    """Return the run folders of a comparison: for each column one folder for each seed and fold."""
    return {
        column.label: [RunFolder(folder.path / column.folder(repeat)) for repeat in repeats(experiment)]
        for column in comparison_columns(experiment)
    }


def _without_silos(experiment: Experiment, aside: Sequence[str]) -> Experiment:
    """Return the experiment without these silos, so that the column from scratch trains the same silos as the others."""
    if not aside:
        return experiment
    from fedtl.data import prepare

    names = [name for name in prepare.silo_names(experiment.data) if name not in aside]
    return with_changes(
        experiment, data=type(experiment.data)(**{**experiment.data.model_dump(), "silos": names})
    )
