"""
A plan at a site: the agreement together with the site's own settings. It says which experiment would run, under which
privacy settings, and which tensors would leave. Reads no rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from fedtl._util.counted import counted
from fedtl.deployment.plan import Agreement
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.privacy_policy import effective_privacy
from fedtl.deployment.site.site_experiment import site_experiment
from fedtl.errors import ConfigError, Denied
from fedtl.experiment.config.known_tasks import check_deployment
from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.config.schema import Experiment, PrivacySettings
from fedtl.experiment.data_schema import DataSchema, SiloSchema
from fedtl.experiment.study import Study, build
from fedtl.experiment.transfer.numbers import transfer_limits
from fedtl.federation.policy import (
    TRANSFER,
    Code,
    Limits,
    Manifest,
    Policy,
    Terms,
    check_manifest,
    make_manifest,
)
from fedtl.methods.base import own_labels
from fedtl.methods.label_free import made_with_labels, trains_body_alone, trains_without_labels
from fedtl.methods.wire import Encoding
from fedtl.models.net import stages
from fedtl.simulation.shared_store import SharedStore

NO_SHARED_STORE = SharedStore(Path("/nonexistent"))  # only a simulation shares rows between processes


@dataclass(frozen=True)
class SitePlan:
    """``home``: the site's folder. ``agreement``: what the coordinator's bundle asks for."""

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
        """
        The settings that the site trains under; None: without differential privacy. The plan may make the site's own
        settings stricter, never weaker. Raises Denied.
        """
        own = self.home.settings.policy.privacy
        if own is not None and not self.agreement.dp_ready:
            raise Denied(
                Code.PLAN,
                "the policy requires differential privacy, and the plan's model does not support it; ask the coordinator for "
                "a bundle made with --dp-ready",
            )
        return effective_privacy(self.agreement.experiment.privacy, own, self.policy.metrics)

    @property
    def released_metrics(self) -> frozenset[str] | None:
        """The metrics that leave with noise; None where the site trains without differential privacy. Raises Denied."""
        return frozenset(self.privacy.metrics) if self.privacy else None

    @cached_property
    def experiment(self) -> Experiment:
        """The experiment that would run. Raises ConfigError, Denied."""
        return site_experiment(self.home, self.agreement, self.privacy)

    @cached_property
    def dry_study(self) -> Study:
        """The model and the method with stand-in labels, for what does not depend on rows."""
        return build_study(self, tuple(self.agreement.classes) or ("0", "1"))

    @cached_property
    def manifest(self) -> Manifest:
        """Every tensor that would leave in each round, as it is sent."""
        return self._manifest(self.dry_study.trainer.encoding)

    @property
    def terms(self) -> Terms:
        """What a task must agree with."""
        experiment = self.agreement.experiment
        encoding = self.dry_study.trainer.encoding
        received = self._manifest(None)
        return Terms(
            experiment.rounds, experiment.seed, self.manifest, received, encoding, sent_numbers(self)
        )

    def _manifest(self, encoding: Encoding | None) -> Manifest:
        trainer = self.dry_study.trainer
        task, classes = self.agreement.experiment.data.predicted, self.agreement.classes
        # Classes that are not agreed on are those of each site, whose head stays there; "0" and "1" stand in for them.
        state = trainer.initial(task.width(classes) if classes or not task.has_classes else 2)
        return make_manifest(trainer.partition, state, encoding)


def build_study(plan: SitePlan, classes: tuple[str, ...]) -> Study:
    """Return the model and the method. ``classes``: the labels of the site's rows, for a local head."""
    agreement = plan.agreement
    local = own_labels(method_of(agreement.experiment.method))
    labels = classes if local else tuple(agreement.classes)
    columns = tuple(agreement.experiment.data.columns)
    schema = SiloSchema(tuple(agreement.shape), columns, labels, frozenset(labels), 0)
    described = DataSchema({plan.name: schema}, task=agreement.experiment.data.predicted)
    device = choose_device(plan.home.settings.device)
    return build(plan.experiment, NO_SHARED_STORE, NO_SHARED_STORE, device, None, described)


def sends_verdict(plan: SitePlan) -> bool:
    """Whether the plan asks if joining helped, and the policy allows the answer, which needs no privacy. Raises Denied."""
    return plan.policy.verdict and plan.agreement.experiment.request.verdict and plan.privacy is None


def sent_numbers(plan: SitePlan) -> Mapping[str, Limits]:
    """
    Return the limits of each number that says what transfers, by name: they leave with the update of the last round, where plan and
    policy ask for and allow it, the site's labels are used, and its updates have no noise. Raises Denied.
    """
    asked = plan.agreement.experiment.request.transferability and TRANSFER in plan.policy.metrics
    if not asked or plan.privacy is not None or plan.home.settings.data.unlabelled:
        return {}
    body = plan.dry_study.trainer.spec.body
    return transfer_limits(len(stages(body)), bool(plan.agreement.base), plan.experiment.metric)


def check_policy(plan: SitePlan) -> None:
    """Check the plan, without its rows. Raises Denied where the site's policy does not allow it, and ConfigError."""
    policy, experiment = plan.policy, plan.agreement.experiment
    for key, name, allowed in (
        ("methods", experiment.method.name, policy.methods),
        ("models", experiment.model.name, policy.models),
    ):
        if name not in allowed:
            names = ", ".join(sorted(allowed)) or "none"
            raise Denied(Code.PLAN, f"the plan's {key[:-1]} is {name!r}; policy.{key} allows {names}")
    if (form := experiment.wire.dtype) not in policy.wire:
        forms = ", ".join(sorted(policy.wire)) or "none"
        raise Denied(Code.PLAN, f"the plan's wire.dtype is {form!r}; policy.wire allows {forms}")
    if method_of(experiment.method).pool:
        raise Denied(
            Code.PLAN,
            f"method {experiment.method.name!r} would send the rows themselves; it is for simulations only",
        )
    _check_verdict(plan)
    check_deployment(experiment)
    _check_without_labels(plan)
    if experiment.minimum_silos < policy.minimum_silos:
        raise Denied(
            Code.PLAN,
            f"the plan allows rounds of only {counted(experiment.minimum_silos, 'institution')}; policy.minimum_silos is {policy.minimum_silos}",
        )
    check_manifest(plan.manifest, policy)


def _check_verdict(plan: SitePlan) -> None:
    """Raise Denied where the policy allows a verdict, which has no noise, together with differential privacy."""
    if plan.policy.verdict and plan.home.settings.policy.privacy is not None:
        raise Denied(
            Code.PLAN,
            "policy.verdict = true and [policy.privacy]: a verdict follows from the test rows without noise; remove one of them",
        )


def _check_without_labels(plan: SitePlan) -> None:
    """
    Raise Denied where the site's labels are not used, and it could not take part in the plan's rounds without them; and where
    the plan takes it to have none, and they are used.
    """
    if plan.home.settings.policy.privacy is not None and plan.home.settings.data.missing_labels == "inputs":
        raise Denied(
            Code.PLAN,
            'data.missing_labels = "inputs" and [policy.privacy]: the accounting covers labelled rows only; remove one of them',
        )
    if not plan.home.settings.data.unlabelled:
        if plan.name in plan.agreement.experiment.data.unlabelled:
            raise Denied(
                Code.PLAN,
                "the plan assumes that this site has no labels, but silo.toml uses labels; set data.unlabelled = true, or ask the coordinator "
                "for a bundle that does not name this site",
            )
        return
    name, unused = plan.agreement.experiment.method.name, "data.unlabelled = true"
    method = method_of(plan.agreement.experiment.method)
    if plan.home.settings.policy.privacy is not None:
        raise Denied(
            Code.PLAN,
            f"{unused} and [policy.privacy]: the accounting covers labelled rows only; remove one of them",
        )
    if made_with_labels(method) and not trains_body_alone(method):
        raise Denied(
            Code.PLAN, f"{unused}, and method {name!r} trains the part that stays at a site on labels"
        )
    if not trains_without_labels(method):
        raise Denied(
            Code.PLAN,
            f"{unused}, and every loss of method {name!r} needs labels, so this site has nothing to send; fedtl silo adopt fits the "
            "finished model to its inputs",
        )


def choose_device(setting: str) -> str:
    """Return "cpu" or "cuda" for auto, cpu or cuda. Raises ConfigError where there is no GPU and ``setting`` is "cuda"."""
    if setting == "cuda" and not torch.cuda.is_available():
        raise ConfigError('device = "cuda": torch finds no CUDA device; set device = "auto" or "cpu"')
    return "cuda" if setting != "cpu" and torch.cuda.is_available() else "cpu"
