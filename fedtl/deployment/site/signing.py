"""
The terms of a plan at a site, taken from silo.toml, the plan and the site's own rows: for the page that is signed, and at
each round for the comparison with what was signed.
"""

from dataclasses import dataclass
from hashlib import sha256

from fedtl.data.columns import declared_columns
from fedtl.data.dataset import SiloDataset
from fedtl.data.settings import SCALES
from fedtl.deployment.site import covered
from fedtl.deployment.site.covered import Grant
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.signed import DataTerms, PrivacyTerms, SignedTerms
from fedtl.deployment.site.site_plan import SitePlan
from fedtl.messages import Task
from fedtl.privacy.charge import task_hash
from fedtl.privacy.guarantee import PrivacyGuarantee


def terms(
    place: SitePlan, data: SiloDataset, guarantee: PrivacyGuarantee | None, studies: int, until: str
) -> SignedTerms:
    """As they are now. ``guarantee`` None: the site trains without differential privacy."""
    policy, experiment = place.policy, place.agreement.experiment
    figures = policy.metrics if place.released is None else place.released
    return SignedTerms(
        site=place.name,
        server=place.home.settings.server,
        plan=place.agreement.hash,
        manifest=place.manifest.hash,
        asked_by=experiment.request.by,
        purpose=experiment.request.purpose,
        method=experiment.method.name,
        model=experiment.model.name,
        rounds=experiment.rounds,
        silos=experiment.minimum_silos,
        studies=studies,
        until=until,
        roles=sorted(policy.roles),
        metrics=sorted(figures),
        bytes=policy.bytes,
        norm=policy.norm,
        rows=policy.rows and guarantee is None,
        minimum_silos=policy.minimum_silos,
        columns=[str(column) for column in declared_columns(experiment.data)],
        classes=place.agreement.classes,
        records=len(data.train) if guarantee is None else guarantee.protected.count,
        data=_data(place.home),
        privacy=None if guarantee is None else _privacy(place, guarantee),
    )


def _data(home: Home) -> DataTerms:
    here = home.settings.data
    file = home.at(here.scale)
    constants = here.scale not in SCALES and file.is_file()
    kept = {
        name: getattr(here, name) for name in DataTerms.model_fields if name not in ("name", "scale_file")
    }
    return DataTerms(
        name=home.dataset,
        scale_file=sha256(file.read_bytes()).hexdigest() if constants else "",
        **kept,
    )


def _privacy(place: SitePlan, guarantee: PrivacyGuarantee) -> PrivacyTerms:
    own, settings = place.home.settings.policy.privacy, place.privacy
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
class Approved:
    """The approval that a round begins under: its ``grant``, and what the record says of earlier rounds."""

    home: Home
    grant: Grant
    read: covered.History

    @classmethod
    def of(cls, place: SitePlan) -> "Approved":
        """Raises Denied where the plan, or what leaves, or fedtl itself is not what was approved."""
        read = covered.history(place.home.record.lines())
        grant = covered.in_force(place.home, read, place.agreement.hash, place.manifest)
        return cls(place.home, grant, read)

    def check(self, task: Task) -> None:
        """Whether this study and round may begin under the approval. Raises Denied."""
        covered.check_use(self.read, self.grant, task.study, task.round, task_hash(task))

    def terms(self, place: SitePlan, data: SiloDataset, guarantee: PrivacyGuarantee | None) -> SignedTerms:
        """The terms in force, none of which is looser than signed. Raises Denied."""
        signed = self.grant.terms
        assert signed is not None
        now = terms(place, data, guarantee, signed.studies, signed.until)
        covered.check_terms(signed, now)
        return now

    def begin(self, task: Task) -> None:
        """Write down that a study uses the approval, before its first round is computed."""
        if task.study not in self.read.studies[self.grant.number]:
            self.home.record.note("began", study=task.study, plan=self.grant.approval.plan)

    def answered(self, task: Task) -> bool:
        """Whether a reply to this round of the study has left already."""
        return self.read.rounds.get(task.study, (0, ""))[0] >= task.round
