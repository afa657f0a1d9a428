"""
Computes the terms of a plan at a site from silo.toml, the plan and the site's rows: once for the page that is signed, and
in each round to compare them with what was signed.
"""

from dataclasses import dataclass
from hashlib import sha256

from fedtl.data.columns import declared_columns
from fedtl.data.dataset import SiloDataset
from fedtl.data.settings import SCALES
from fedtl.deployment.site.covered import (
    Grant,
    History,
    check_terms,
    check_use,
    check_verdict_use,
    grant_in_force,
    record_history,
)
from fedtl.deployment.site.egress_lines import StudyBegan
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.signed import DataTerms, PrivacyTerms, SignedTerms
from fedtl.deployment.site.site_plan import SitePlan, sends_verdict
from fedtl.experiment.config.schema import Experiment
from fedtl.messages import Task
from fedtl.privacy.charge import task_hash
from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.results.comparison import Verdict


def present_terms(
    plan: SitePlan, data: SiloDataset, guarantee: PrivacyGuarantee | None, studies: int, until: str
) -> SignedTerms:
    """
    Return the terms as they are now. ``guarantee`` None: the site trains without differential privacy. ``studies`` and
    ``until``: how many studies an approval is for, and its last day.
    """
    policy, experiment = plan.policy, plan.agreement.experiment
    metrics = policy.metrics if plan.released_metrics is None else plan.released_metrics
    return SignedTerms(
        site=plan.name,
        server=plan.home.settings.server,
        plan=plan.agreement.hash,
        manifest=plan.manifest.hash,
        asked_by=experiment.request.by,
        purpose=experiment.request.purpose,
        method=experiment.method.name,
        model=experiment.model.name,
        rounds=experiment.rounds,
        silos=experiment.minimum_silos,
        studies=studies,
        until=until,
        roles=sorted(policy.roles),
        metrics=sorted(metrics),
        bytes=policy.max_bytes_per_round,
        norm=policy.max_update_norm,
        rows=policy.share_row_count and guarantee is None,
        minimum_silos=policy.minimum_silos,
        columns=[str(column) for column in declared_columns(experiment.data)],
        classes=plan.agreement.classes or agreed_mask_classes(experiment),
        records=len(data.train) if guarantee is None else guarantee.protected.count,
        data=_data_terms(plan.home),
        verdict=sends_verdict(plan) and guarantee is None,
        privacy=None if guarantee is None else _privacy_terms(plan, guarantee),
    )


def agreed_mask_classes(experiment: Experiment) -> list[str]:
    """Return the classes of masks, which are the outputs of the model whatever a site's rows hold; [] for other tasks."""
    return experiment.data.classes if experiment.data.predicted.per_pixel else []


def _data_terms(home: Home) -> DataTerms:
    settings = home.settings.data
    file = home.at(settings.scale)
    has_constants = settings.scale not in SCALES and file.is_file()
    computed = {"name", "scale_file", "split"}
    same_name = {name: getattr(settings, name) for name in DataTerms.model_fields.keys() - computed}
    return DataTerms(
        name=home.dataset,
        scale_file=sha256(file.read_bytes()).hexdigest() if has_constants else "",
        split=settings.split_seed,
        **same_name,
    )


def _privacy_terms(plan: SitePlan, guarantee: PrivacyGuarantee) -> PrivacyTerms:
    own, settings = plan.home.settings.policy.privacy, plan.privacy
    assert own is not None
    assert settings is not None
    return PrivacyTerms(
        epsilon=settings.epsilon,
        delta=guarantee.delta,
        lifetime_epsilon=own.lifetime_epsilon,
        lifetime_delta=own.lifetime_delta,
        clip=guarantee.training.clip,
        unit=guarantee.protected.unit,
        sample_rate=guarantee.training.sample_rate,
        steps=guarantee.training.steps_a_round,
        rounds=guarantee.training.rounds,
        statistics=settings.statistics,
    )


@dataclass(frozen=True)
class ApprovalInForce:
    """The approval that a round is computed under. ``history``: what the record says of earlier rounds."""

    home: Home
    grant: Grant
    history: History

    @classmethod
    def of(cls, plan: SitePlan) -> "ApprovalInForce":
        """Return the approval for this plan. Raises Denied where plan, manifest or installed fedtl is not the approved one."""
        history = record_history(plan.home.record.lines())
        grant = grant_in_force(plan.home, history, plan.agreement.hash, plan.manifest)
        return cls(plan.home, grant, history)

    def check_use(self, task: Task) -> None:
        """Check that the approval covers a task. Raises Denied where it does not cover this study and round."""
        check_use(self.history, self.grant, task.study, task.round, task_hash(task))

    def check_verdict_use(self, question: Task) -> None:
        """Check that the approval covers a verdict on this study. Raises Denied where it does not, or where another one has left."""
        check_verdict_use(self.history, self.grant, question.study, task_hash(question))

    def verdict(self, study: str) -> Verdict | None:
        """Return the verdict on a study that has left."""
        return self.history.verdicts[study][0] if study in self.history.verdicts else None

    def terms(self, plan: SitePlan, data: SiloDataset, guarantee: PrivacyGuarantee | None) -> SignedTerms:
        """Return the terms as they are now. Raises Denied where one is looser than signed."""
        signed = self.grant.terms
        assert signed is not None
        now = present_terms(plan, data, guarantee, signed.studies, signed.until)
        check_terms(signed, now)
        return now

    def note_begin(self, task: Task) -> None:
        """Record that the study uses the approval, before its first round is computed."""
        if task.study not in self.history.studies[self.grant.number]:
            self.home.record.append(StudyBegan(study=task.study, plan=self.grant.approval.plan))

    def has_answered(self, task: Task) -> bool:
        """Whether a reply to this round of the study has left already."""
        return self.history.rounds.get(task.study, (0, ""))[0] >= task.round
