"""The rows of every silo of a study: read once, prepared once, and then shared by all processes of this machine."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fedtl.data import prepare
from fedtl.data.dataset import SiloDataset
from fedtl.data.fingerprint import rows_fingerprint
from fedtl.data.prepare import EvaluationSet, Prepared
from fedtl.data.preprocess import Inputs
from fedtl.data.row_numbers import stored_inputs, unlabelled_row_numbers
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array, Raw
from fedtl.experiment.data_schema import DataSchema
from fedtl.simulation.shared_store import SharedStore


@dataclass(frozen=True)
class RowStores:
    """Files that all processes map: rows as their source has them (``raw``), and ``prepared`` for training."""

    raw: SharedStore
    prepared: SharedStore

    def stored(self, settings: DataSettings, name: str) -> Raw:
        """Return a silo's rows as its source has them. Raises DataError."""
        return self.raw.get_or_make(f"{name}.raw", lambda: prepare.read_silo(settings, name))


@dataclass(frozen=True)
class StudyData:
    """``own_labels``: whether the model of a silo has the labels of that silo only, or of all silos."""

    settings: DataSettings
    seed: int
    own_labels: bool
    schema: DataSchema
    stores: RowStores

    def dataset(self, name: str) -> SiloDataset:
        """Return what a silo learns from. Raises DataError."""
        dataset: SiloDataset = self._part(name, "data")
        return dataset

    def evaluation_set(self, name: str) -> EvaluationSet:
        """Return a silo's test rows; of a silo without labels also all inputs, which runs of other seeds answer. Raises DataError."""
        rows: EvaluationSet = self._part(name, "evaluation_set")
        if name not in self.settings.unlabelled:
            return rows
        stored = self.stores.prepared.get_or_make(
            f"{name}.stored_inputs", lambda: stored_inputs(self.stored(name), self.inputs(name))
        )
        return replace(rows, stored=stored)

    def unlabelled_row_numbers(self, name: str) -> Array:
        """Return the permanent numbers of the training and validation rows whose labels are not used. Raises DataError."""
        return unlabelled_row_numbers(self.stored(name), self.settings, name, self.seed)

    def inputs(self, name: str) -> Inputs:
        """Return how a silo's inputs were made from its rows. Raises DataError."""
        inputs: Inputs = self._part(name, "inputs")
        return inputs

    def stored(self, name: str) -> Raw:
        """Return a silo's rows as its source has them. Raises DataError."""
        return self.stores.stored(self.settings, name)

    def fingerprint(self, name: str) -> str:
        """
        Return the fingerprint of a silo's rows, without its labels where it is unlabelled. It is made once for all runs that share the
        stored rows. Raises DataError.
        """
        labels = name not in self.settings.unlabelled
        key = f"{name}.fingerprint" if labels else f"{name}.fingerprint-without-labels"
        return self.stores.raw.get_or_make(key, lambda: rows_fingerprint(self.stored(name), labels))

    def prepare(self, name: str, raw: Raw) -> Prepared:
        """Prepare stored rows as this silo's, without storing the result. Raises DataError."""
        own, schema = self.schema.silos[name], self.schema
        unlabelled = name in self.settings.unlabelled
        labels = own.classes if self.own_labels and not unlabelled else schema.union
        return prepare.prepare_silo(raw, self.settings, name, self.seed, labels, schema.trained)

    def _part(self, name: str, part: str) -> Any:
        if not self.stores.prepared.has(f"{name}.{part}"):
            prepared = self.prepare(name, self.stored(name))
            for key in ("data", "evaluation_set", "inputs"):
                self.stores.prepared.get_or_make(f"{name}.{key}", partial(getattr, prepared, key))
        return self.stores.prepared.get(f"{name}.{part}")
