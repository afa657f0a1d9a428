"""
Methods and models that a Python program passes as values.

``experiment.toml`` holds only their names, "custom" or "custom:" and a name. The folder alone gives the numbers and the report,
and predictions where the model is one of the table. What builds the model or trains again needs the values once more.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedtl.errors import ConfigError
from fedtl.experiment.config.load import with_changes
from fedtl.experiment.config.schema import CUSTOM, Experiment, is_custom
from fedtl.methods.base import Method
from fedtl.models.custom import Build, FixedModel


@dataclass(frozen=True)
class CustomValues:
    """``method``: that of a run. ``methods``: further columns of a comparison, by name. ``model``: builds the model."""

    method: Method | None = None
    methods: Mapping[str, Method] = field(default_factory=dict)
    model: Build | None = None

    def put_into(self, experiment: Experiment) -> Experiment:
        """Return the experiment with the values in place of names. Raises ConfigError."""
        changes: dict[str, object] = {}
        if self.method is not None:
            name = experiment.method.name if is_custom(experiment.method.name) else CUSTOM
            changes["method"] = experiment.method.with_value(name, self.method)
        if self.model is not None:
            changes["model"] = experiment.model.with_value(self._model_name, self.model)
        if self.methods:
            own = {f"{CUSTOM}:{name}": method for name, method in self.methods.items()}
            if wrong := [name for name in own if not is_custom(name)]:
                raise ConfigError(f"custom: {wrong[0]!r}: a name has at most 64 letters, digits and . _ + -")
            listed = [
                *experiment.compare.methods,
                *(name for name in own if name not in experiment.compare.methods),
            ]
            compare = experiment.compare.model_copy(update={"methods": listed})
            changes["compare"] = compare.with_values(own)
        return with_changes(experiment, **changes) if changes else experiment

    def put_back(self, experiment: Experiment) -> Experiment:
        """Return the experiment of a run folder with the values that it was run with. Raises ConfigError for others."""
        expected = {
            "method": (self.method is not None, is_custom(experiment.method.name), experiment.method.name),
            "model": (
                self.model is not None,
                experiment.model.name == self._model_name,
                experiment.model.name,
            ),
        }
        for what, (given, fits, name) in expected.items():
            if given and not fits:
                raise ConfigError(
                    f"{what} was passed, but the run has the {what} {name!r}; pass what the run had, or nothing"
                )
        for name in self.methods:
            if f"{CUSTOM}:{name}" not in experiment.compare.methods:
                raise ConfigError(
                    f"custom: the comparison has no method {name!r}; it has {', '.join(experiment.compare.methods)}"
                )
        return self.put_into(experiment)

    @property
    def _model_name(self) -> str:
        made = self.model.module if isinstance(self.model, FixedModel) else self.model
        name = str(getattr(made, "__name__", type(made).__name__))
        return f"{CUSTOM}:{name if name.isidentifier() else 'model'}"


NO_VALUES = CustomValues()


def passed_values(experiment: Experiment) -> list[str]:
    """Return what a Python program passed to this experiment, so that its settings alone do not repeat it."""
    columns = [name for name in experiment.compare.methods if is_custom(name)]
    return [
        *(["the rows"] if experiment.data.source == "memory" else []),
        *([f"the method {experiment.method.name!r}"] if is_custom(experiment.method.name) else []),
        *(f"the method {name!r}" for name in columns),
        *([f"the model {experiment.model.name!r}"] if is_custom(experiment.model.name) else []),
    ]
