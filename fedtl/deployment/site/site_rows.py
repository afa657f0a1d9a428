"""Reads a site's rows as a plan needs them, checks them against the agreed schema, and prepares them for training."""

from dataclasses import dataclass

from fedtl.data import origins, prepare
from fedtl.data.columns import order_columns
from fedtl.data.dataset import SiloDataset
from fedtl.data.labels import different_labels, labels_in, without_label
from fedtl.data.prepare import Prepared
from fedtl.data.source import Raw
from fedtl.deployment.site.site_plan import SitePlan
from fedtl.errors import DataError, Denied
from fedtl.federation.policy import Code
from fedtl.methods.base import own_labels
from fedtl.privacy.rows import Part, RowSet, row_set


@dataclass(frozen=True)
class SiteRows:
    """A site's rows: as they are stored, and as they are used."""

    raw: Raw
    prepared: Prepared

    @property
    def data(self) -> SiloDataset:
        return self.prepared.data


def load_rows(plan: SitePlan) -> SiteRows:
    """Return the rows. Raises DataError where they do not have the agreed schema."""
    raw = read_raw_rows(plan)
    return SiteRows(raw, prepare_rows(plan, raw))


def read_raw_rows(plan: SitePlan) -> Raw:
    """Return the rows as they are stored, with the columns in the plan's order. Raises DataError."""
    own, agreed = plan.home.settings.data, plan.agreement.experiment.data
    if own.source == "table" and not agreed.columns:
        raise DataError(
            f"{plan.name}: the plan does not list its columns (data.columns), so a site with a table cannot take part; ask the "
            "coordinator for a bundle that lists them"
        )
    return order_columns(prepare.read_silo(plan.experiment.data, own.silo or plan.name), agreed, plan.name)


def prepare_rows(plan: SitePlan, raw: Raw) -> Prepared:
    """Split and scale stored rows. Raises DataError where they do not have the agreed schema."""
    settings = plan.experiment.data
    agreed, shape = tuple(plan.agreement.shape), tuple(prepare.input_shape(raw, settings))
    if shape != agreed:
        raise DataError(
            f"{plan.name}: the inputs have shape {shape}; the plan needs {agreed}; correct [data] in silo.toml, or do not "
            "approve this plan"
        )
    unused = plan.home.settings.data.unlabelled
    _check_missing_labels(plan, raw)
    classes = prepare.declared_classes(settings) if unused else prepare.silo_classes(raw, settings)
    if unused and settings.predicted.has_classes and not (classes or plan.agreement.classes):
        raise DataError(
            f"{plan.name}: no label is used, so the classes are not known; list them in data.classes of silo.toml"
        )
    trained = frozenset(classes) if unused else different_labels(raw.train.y)
    if not own_labels(plan.dry_study.method) and settings.task == "classification":
        classes = tuple(plan.agreement.classes) or classes
        trained = frozenset(classes)
        if not (settings.by_record or unused) and (unknown := sorted(labels_in(raw) - trained)):
            raise DataError(
                f"{plan.name}: the rows have label {unknown[0]!r}; the plan's labels are {', '.join(classes)}; "
                "correct these rows, or ask the coordinator for a bundle with this label"
            )
    seed = plan.home.settings.data.split_seed
    return prepare.prepare_silo(raw, settings, plan.name, seed, classes, trained)


def _check_missing_labels(plan: SitePlan, raw: Raw) -> None:
    """Raise DataError for rows without a label where silo.toml does not say that they are inputs, whatever the plan says."""
    here, settings = plan.home.settings.data, plan.experiment.data
    task = settings.predicted
    if (
        here.unlabelled
        or settings.by_record
        or here.missing_labels == "inputs"
        or task.per_pixel
        or task.label_shape(settings)
    ):
        return
    if missing := int(without_label(raw.train.y).sum()):
        raise DataError(
            f'{plan.name}: {missing} of {len(raw.train.y)} rows have no label; set data.missing_labels = "inputs" in silo.toml to '
            "use them as inputs, or remove them"
        )


def check_origins(plan: SitePlan, data: SiloDataset) -> None:
    """
    Check the origins of prepared rows. Raises Denied where the site trains privately and something that its rows are
    prepared with, such as the constants of the scaling, was computed from them without noise.
    """
    for reason in origins.refusals(data.origins) if plan.privacy else ():
        raise Denied(Code.PLAN, f"{plan.name}: {origins.REFUSED}{reason}")


def raw_row_hashes(raw: Raw, key: bytes) -> RowSet:
    """
    Return keyed hashes of the training and validation rows. The lifetime budget belongs to them; hashing the rows as they
    are stored makes it independent of how a plan scales them.
    """
    parts = [Part(part.x, part.y, part.units) for part in (raw.train, raw.val) if part is not None]
    return row_set(parts, key, raw.columns)
