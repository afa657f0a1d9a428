"""
A plan meets an institution: its agreement and the site's own settings become one experiment, a bench, and what would
leave. Reads no rows until it is asked to.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from fedtl.data import origins, prepare
from fedtl.data.columns import order_columns
from fedtl.data.dataset import SiloDataset
from fedtl.data.labels import label_texts, labels_in
from fedtl.data.prepare import Prepared
from fedtl.data.source import Raw
from fedtl.deployment.plan import Agreement
from fedtl.deployment.site import privacy_policy as stricter
from fedtl.deployment.site.data_settings import settings_to_train
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.state_store import schema_of
from fedtl.errors import ConfigError, DataError, Denied
from fedtl.experiment.config.load import parse
from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.config.schema import Experiment, PrivacySettings
from fedtl.experiment.data_schema import DataSchema, SiloSchema
from fedtl.experiment.privacy_plan import LedgerLocation, guarantee
from fedtl.experiment.study import Study, build
from fedtl.federation.policy import Code, Manifest, Policy, Terms, check_manifest, make_manifest
from fedtl.privacy import taint as labels
from fedtl.privacy.budget import Budget
from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.privacy.rows import Part, RowSet, row_set
from fedtl.simulation.shared_store import SharedStore
from fedtl.training.silo import Silo

NOWHERE = SharedStore(Path("/nonexistent"))  # a site keeps its rows where they are
FORM = PrivacySettings(epsilon=1.0)  # only that the model's norms are such as private training takes


@dataclass(frozen=True)
class SitePlan:
    """One plan at one site."""

    home: Home
    agreement: Agreement

    @property
    def name(self) -> str:
        return self.home.settings.name

    @property
    def policy(self) -> Policy:
        return self.home.settings.policy.policy

    @cached_property
    def privacy(self) -> PrivacySettings | None:
        """What the site trains under; None: openly. The experiment may ask for stricter, never for less. Raises Denied."""
        own = self.home.settings.policy.privacy
        if own is not None and not self.agreement.dp_ready:
            raise Denied(
                Code.PLAN,
                "the policy asks for differential privacy, and the plan's model is not ready for it; ask for a bundle "
                "made with --dp-ready",
            )
        return stricter.settings(self.agreement.experiment.privacy, own, self.policy.metrics)

    @property
    def released(self) -> frozenset[str] | None:
        """The metrics that leave with noise; None where the site trains openly. Raises Denied."""
        return frozenset(self.privacy.metrics) if self.privacy else None

    @cached_property
    def experiment(self) -> Experiment:
        """The agreement with the site's own rows, weights and privacy. Raises ConfigError, Denied."""
        common = self.agreement.experiment
        data = settings_to_train(self.home, common.data, self._classes())
        table = common.model_dump(exclude_none=True)
        table["data"] = data.model_dump(exclude_none=True)
        table["model"]["weights"] = self._weights()
        table["engine"] = {"name": "serial", "threads": self.home.settings.threads}
        if privacy := self.privacy or (FORM if self.agreement.dp_ready else None):
            table["privacy"] = privacy.model_dump(exclude_none=True)
        return parse(table)

    def _classes(self) -> list[str]:
        """The declared labels: for a shared head those agreed on, for a head of its own the site's, or the plan's."""
        common = self.agreement.experiment
        if not method_of(common.method).head_is_local:
            return list(self.agreement.classes)
        return self.home.settings.data.classes or common.data.classes

    def _weights(self) -> str:
        """The file of first weights, which is the one that was agreed on. Raises Denied."""
        if not self.agreement.base:
            return ""
        path = self.home.at(self.home.settings.weights)
        if not self.home.settings.weights or not path.is_file():
            raise Denied(
                Code.PLAN, f"weights: the plan starts from a file of hash {self.agreement.base[:12]}"
            )
        with path.open("rb") as file:
            digest = _sha256(file)
        if digest != self.agreement.base:
            raise Denied(
                Code.PLAN, f"{path} has hash {digest[:12]}; the plan starts from {self.agreement.base[:12]}"
            )
        return str(path)

    def check(self) -> None:
        """Whether the policy allows such a plan at all; no rows are read. Raises Denied, ConfigError."""
        policy, asked = self.policy, self.agreement.experiment
        for key, name, allowed in (
            ("methods", asked.method.name, policy.methods),
            ("models", asked.model.name, policy.models),
        ):
            if name not in allowed:
                known = ", ".join(sorted(allowed)) or "none"
                raise Denied(Code.PLAN, f"the plan's {key[:-1]} is {name!r}; policy.{key} allows {known}")
        if method_of(asked.method).pool:
            raise Denied(Code.PLAN, f"method {asked.method.name!r} would pool rows")
        if asked.minimum_silos < policy.minimum_silos:
            raise Denied(
                Code.PLAN,
                f"the plan aggregates {asked.minimum_silos} silos; policy.minimum_silos is {policy.minimum_silos}",
            )
        check_manifest(self.manifest, policy)

    def study(self, classes: tuple[str, ...]) -> Study:
        """The model and the method; ``classes``: of the site's own rows."""
        shared = not method_of(self.agreement.experiment.method).head_is_local
        labels = tuple(self.agreement.classes) if shared else classes
        sight = SiloSchema(
            tuple(self.agreement.shape),
            tuple(self.agreement.experiment.data.columns),
            labels,
            frozenset(labels),
            0,
        )
        seen = DataSchema({self.name: sight})
        return build(self.experiment, NOWHERE, NOWHERE, device_of(self.home.settings.device), None, seen)

    @cached_property
    def empty(self) -> Study:
        """As it would be with any rows: for what does not depend on them."""
        return self.study(tuple(self.agreement.classes) or ("0", "1"))

    @cached_property
    def manifest(self) -> Manifest:
        trainer = self.empty.trainer
        return make_manifest(trainer.partition, trainer.initial(len(self.agreement.classes) or 2))

    @property
    def terms(self) -> Terms:
        its = self.agreement.experiment
        return Terms(its.rounds, its.seed, self.manifest)

    @cached_property
    def raw(self) -> Raw:
        """The rows, as they are stored, with the columns in the plan's order. Raises DataError."""
        its, plan = self.home.settings.data, self.agreement.experiment.data
        if its.source == "table" and not plan.columns:
            raise DataError(
                f"{self.name}: the plan names no columns, so a table cannot take part; ask the coordinator for a bundle "
                "that names them (data.columns)"
            )
        return order_columns(prepare.read_silo(self.experiment.data, its.silo or self.name), plan, self.name)

    def prepared(self, rows: Raw | None = None) -> Prepared:
        """The site's own rows, or other stored ``rows``. Raises DataError where they do not fit the schema."""
        settings, raw = self.experiment.data, self.raw if rows is None else rows
        wanted, found = tuple(self.agreement.shape), tuple(prepare.input_shape(raw, settings))
        if found != wanted:
            raise DataError(f"{self.name}: inputs have shape {found}; the plan's are {wanted}")
        own = prepare.silo_classes(raw, settings)
        trained = frozenset(label_texts(raw.train.y))
        if not self.empty.method.head_is_local and settings.task == "classification":
            own = tuple(self.agreement.classes) or own
            trained = frozenset(own)
            if not settings.by_record and (odd := sorted(labels_in(raw) - trained)):
                raise DataError(f"{self.name}: label {odd[0]!r} is not among those agreed on")
        return prepare.prepare_silo(raw, settings, self.name, self.home.settings.data.split, own, trained)

    def check_origins(self) -> None:
        """
        Whether everything that the rows are prepared with is declared or released, where the site trains privately; rows
        that cannot be prepared are not judged. Raises Denied.
        """
        if not self.privacy:
            return
        try:
            data = self.prepared().data
        except (DataError, ConfigError):
            return
        self._check_origins(data)

    def _check_origins(self, data: SiloDataset) -> None:
        for reason in origins.refusals(data.origins):
            raise Denied(Code.PLAN, f"{self.name}: {origins.REFUSED}{reason}")

    def silo(self, study: Study, data: SiloDataset, dry: Path | None = None) -> Silo:
        """
        Before its first round, with its promise where it trains privately. ``dry``: another ledger, for rows that are
        nobody's.
        """
        _, local = study.trainer.partition.split(study.trainer.initial(data.width))
        its = self.guarantee(study, data, dry) if self.privacy else None
        return Silo(
            self.name, data, local, self.home.secret, its, labels.public(study.trainer.partition.roles)
        )

    def guarantee(self, study: Study, data: SiloDataset, dry: Path | None = None) -> PrivacyGuarantee:
        settings, own = self.privacy, self.home.settings.policy.privacy
        assert settings is not None
        assert own is not None  # or there would be no such settings
        if settings.statistics == "auto":
            settings = settings.model_copy(update={"statistics": "public"})
        self._check_origins(data)
        place = LedgerLocation(dry or self.home.ledger, self.home.dataset, self.home.secret)
        common = self.agreement.experiment
        rounds = stricter.rounds(common.rounds, own)
        its = guarantee(settings, study.trainer, data, rounds, common.seed, place)
        if dry:
            return replace(its, seed=None)
        lifetime = Budget(own.lifetime_epsilon, own.lifetime_delta)
        account = replace(its.account, budget=lifetime, rows=row_hashes(self.raw, self.home.secret))
        return replace(its, account=account, seed=None)

    def schema(self, study: Study, width: int) -> str:
        return schema_of(study.trainer.initial(width))


def device_of(asked: str) -> str:
    """Raises ConfigError where the GPU that was asked for is not there."""
    if asked == "cuda" and not torch.cuda.is_available():
        raise ConfigError('device = "cuda": this torch sees no CUDA device; set device = "auto" or "cpu"')
    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"


def row_hashes(raw: Raw, key: bytes) -> RowSet:
    """Of the training and validation rows as they are stored, under a key: the budget is theirs, however a plan resizes them."""
    parts = [Part(its.x, its.y, its.units) for its in (raw.train, raw.val) if its is not None]
    return row_set(parts, key, raw.columns)


def _sha256(file: Any) -> str:
    digest = sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
