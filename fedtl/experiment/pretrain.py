"""First weights of the backbone from central training on rows that the experiment declares public."""

from dataclasses import replace

from fedtl.data import prepare
from fedtl.data.dataset import SiloDataset, pool
from fedtl.data.labels import label_texts
from fedtl.data.registry import DATA
from fedtl.data.settings import DataSettings
from fedtl.data.synthetic import noise
from fedtl.errors import ConfigError
from fedtl.experiment.config.load import with_changes
from fedtl.experiment.config.resolve import without_release
from fedtl.experiment.config.schema import Experiment, MethodSettings
from fedtl.experiment.data_schema import DataSchema
from fedtl.experiment.run_folder import RunFolder
from fedtl.messages import Task
from fedtl.methods.base import Phase
from fedtl.models.roles import EVERYTHING, Role
from fedtl.models.scaled import INPUT_SCALE
from fedtl.models.state import State
from fedtl.privacy import taint
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer

FILE = "pretrained.safetensors"
NOISES = 256  # synthetic inputs
EVERY_LABEL = {"unlabelled": [], "label_fraction": 1.0, "public": []}  # settings of [data] for public rows


def statistics_of_noise(trainer: Trainer, shape: tuple[int, ...], width: int) -> State:
    """
    Return first normalisation statistics for private training without pretraining: those of random inputs (``noise``).
    They depend on no data.
    """
    adapted = trainer.adapt(trainer.initial(width), noise(NOISES, shape), width)
    roles, scale = trainer.partition.roles, f"body.{INPUT_SCALE}."
    return {
        name: tensor
        for name, tensor in adapted.items()
        if roles[name] is Role.STATS and not name.startswith(scale)
    }


def pretrain(experiment: Experiment, folder: RunFolder, trainer: Trainer, schema: DataSchema) -> State:
    """
    Return the body's tensors after ``model.pretrain_epochs`` over the training rows of ``model.pretrain_on``, and the head's
    too where the public rows have the same labels as every silo. ``trainer``: of ``central_experiment``. The tensors
    are written to the folder, and read from there the next time. Raises ConfigError or DataError.
    """
    if folder.has(FILE):
        return folder.tensors(FILE)
    epochs = experiment.model.pretrain_epochs
    groups: dict[tuple[str, ...], list[SiloDataset]] = {}
    for entry in experiment.model.pretrain_on:
        for data in public_datasets(experiment, entry):
            groups.setdefault(data.classes, []).append(data)
    state: State = {}
    for classes, members in groups.items():  # a head for each label set; one body
        rows = pool(members)
        task = Task("pretraining", 1, 1, experiment.seed, {})
        silo = Silo(f"public {','.join(classes)}", rows, {}, b"")
        trained = trainer.train(silo, trainer.initial(rows.width) | state, Phase(EVERYTHING, epochs), task)
        same_labels = {classes} == {
            *groups,
            *(silo.classes for silo in schema.silos.values() if silo.classes),
        }
        kept = ("body.", "head.") if same_labels else ("body.",)
        state = {name: tensor for name, tensor in trained.items() if name.startswith(kept)}
    folder.save_tensors(FILE, state, taint.untrained_labels(state))
    return state


def central_experiment(experiment: Experiment) -> Experiment:
    """Return the experiment for central training: the whole body is trained, at the full rate, with the task loss only."""
    return with_changes(
        experiment,
        privacy=None,
        silo={},
        data=without_release(experiment.data),
        method=MethodSettings(name="pooled"),
        train=experiment.train.model_copy(update={"body_lr": 1.0, "stage_lr": 1.0, "roles": []}),
        model=experiment.model.model_copy(update={"freeze": 0, "adapters": None}),
    )


def public_datasets(experiment: Experiment, entry: str) -> list[SiloDataset]:
    """Return the rows of one entry of ``model.pretrain_on``: of a silo, or, for ``source:path``, of all its silos."""
    source, colon, path = entry.partition(":")
    if not colon:
        settings, names = without_release(experiment.data), [entry]
        # Public rows are the same in every fold, and labelled.
        settings = settings.model_copy(update={"folds": 1, "fold": 0} | EVERY_LABEL)
    elif source in DATA:
        fields = {"source": source, "path": path, "silos": [], "late": []} | EVERY_LABEL
        settings = DataSettings(**{**without_release(experiment.data).model_dump(), **fields})
        names = prepare.silo_names(settings)
    else:
        raise ConfigError(
            f"model.pretrain_on: {entry!r} is not SOURCE:PATH with a known source; there are {', '.join(DATA)}"
        )
    datasets: list[SiloDataset] = []
    for name in names:
        raw = prepare.read_silo(settings, name)
        own = prepare.silo_classes(raw, settings)
        named = settings.predicted.has_classes
        trained = frozenset(label_texts(raw.train.y)) if named else frozenset[str]()
        data = prepare.prepare_silo(raw, settings, name, experiment.split_seed, own, trained).data
        datasets.append(replace(data, target=None))
    return datasets
