"""The rows of a silo that takes no part in training, from the [data] table of an experiment's file."""

from fedtl.data import prepare
from fedtl.data.columns import in_order
from fedtl.data.prepare import Prepared
from fedtl.data.registry import DATA
from fedtl.data.settings import InputSettings
from fedtl.errors import ConfigError, DataError
from fedtl.experiment.backbone import Backbone
from fedtl.experiment.config.load import parse_experiment, read_experiment
from fedtl.experiment.config.schema import Experiment


def new_silo_experiment(backbone: Backbone, file: str) -> Experiment:
    """
    Return the experiment whose [data] is that of ``file``; the keys on which silos must agree (size, channels, columns, ...)
    are those of the backbone where the file does not name them. Raises ConfigError.
    """
    data = read_experiment(file).get("data", {})
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: [data] is not a table")
    keys = (
        *InputSettings.model_fields,
        "pixel_range",
        *(["slices"] if data.get("source") == "images" else []),
    )
    agreed = {key: getattr(backbone.experiment.data, key) for key in keys}
    if backbone.experiment.data.target_encoded:
        raise ConfigError(
            "data.target_encoded takes the labels of all training rows, and a silo that is onboarded has few; train with data.hashed"
        )
    known = {key: value for key, value in agreed.items() if value not in (None, [])}
    return parse_experiment({"seed": backbone.experiment.split_seed, "data": {**known, **data, "late": []}})


def new_silo_name(backbone: Backbone, experiment: Experiment, wanted: str | None) -> str:
    """
    Return the silo to onboard: the one that is wanted, or the only one that did not train. Raises ConfigError or DataError.
    """
    names = prepare.silo_names(experiment.data)
    own, other = experiment.data, backbone.experiment.data
    same_rows = (own.source, own.path, own.deal) == (other.source, other.path, other.deal)
    trained = set(backbone.trained) if same_rows else set()
    if wanted is None:
        new = [name for name in names if name not in trained]
        if len(new) != 1:
            listed = ", ".join(new[:12]) or f"none that did not train ({', '.join(names[:12])})"
            raise ConfigError(f"--data has {len(new)} new silos: {listed}; name one with --silo")
        return new[0]
    if wanted not in names:
        raise ConfigError(f"--silo: there is no silo {wanted!r}; there are {', '.join(names[:12])}")
    if wanted in trained:
        raise ConfigError(f"--silo: {wanted} trained in this run; fedtl predict uses its own model")
    return wanted


def read_new_silo(backbone: Backbone, experiment: Experiment, name: str) -> Prepared:
    """Return the prepared rows, with the silo's own labels. Raises DataError where its inputs do not fit the model."""
    settings = experiment.data
    raw = in_order(prepare.read_silo(settings, name), backbone.columns)
    if raw.columns and backbone.columns and raw.columns != backbone.columns:
        differing = sorted(set(raw.columns) ^ set(backbone.columns))
        raise DataError(
            f"silo {name} has other columns than the model: {differing[0]}; the model needs {', '.join(backbone.columns)}"
        )
    shape = prepare.input_shape(raw, settings)
    if shape != backbone.shape:
        advice = (
            f"source {settings.source!r}: {DATA[settings.source].about}"
            if len(shape) != 3
            else "set data.size and data.channels"
        )
        raise DataError(
            f"silo {name} has inputs of shape {shape}, but the model was trained on {backbone.shape}; {advice}"
        )
    classes = prepare.silo_classes(raw, settings)
    known = frozenset({*classes, *backbone.classes})
    return prepare.prepare_silo(raw, settings, name, experiment.split_seed, classes, known)
