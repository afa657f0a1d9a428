"""Makes the silo that trains a plan at a site, with its privacy guarantee where it trains with differential privacy."""

from dataclasses import replace
from pathlib import Path

from fedtl.data.dataset import SiloDataset
from fedtl.deployment.site.privacy_policy import maximum_rounds
from fedtl.deployment.site.settings import BudgetSettings
from fedtl.deployment.site.site_plan import SitePlan
from fedtl.deployment.site.site_rows import SiteRows, check_origins, raw_row_hashes
from fedtl.errors import ConfigError
from fedtl.experiment.privacy_plan import LedgerLocation, plan_guarantee
from fedtl.experiment.study import Study
from fedtl.privacy import taint
from fedtl.privacy.budget import Budget
from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.training.silo import Silo


def make_silo(plan: SitePlan, study: Study, rows: SiteRows) -> Silo:
    """Return the silo before its first round. Raises Denied, ConfigError."""
    if not isinstance(plan.experiment.model.pixels, str) and not rows.prepared.inputs.signed:
        raise ConfigError(
            "the plan's model.pixels scales pixels of 0..255, but this site's inputs are not such pixels; use images"
        )
    return _silo(plan, study, rows.data, site_guarantee(plan, study, rows) if plan.privacy else None)


def make_dry_silo(plan: SitePlan, study: Study, data: SiloDataset, ledger: Path) -> Silo:
    """Return the silo for synthetic rows, with a ledger of their own."""
    return _silo(plan, study, data, guarantee_on_ledger(plan, study, data, ledger) if plan.privacy else None)


def _silo(
    plan: SitePlan, study: Study, data: SiloDataset, privacy_guarantee: PrivacyGuarantee | None
) -> Silo:
    _, local = study.trainer.partition.split(study.trainer.initial(data.width))
    return Silo(
        plan.name,
        data,
        local,
        plan.home.secret,
        privacy_guarantee,
        taint.untrained_labels(study.trainer.partition.roles),
    )


def site_guarantee(plan: SitePlan, study: Study, rows: SiteRows) -> PrivacyGuarantee:
    """Return the guarantee for the site's own rows, charged to the site's ledger. Raises Denied, ConfigError."""
    own = _budget(plan)
    planned = guarantee_on_ledger(plan, study, rows.data, plan.home.ledger)
    lifetime = Budget(own.lifetime_epsilon, own.lifetime_delta)
    account = replace(planned.account, budget=lifetime, rows=raw_row_hashes(rows.raw, plan.home.secret))
    return replace(planned, account=account)


def guarantee_on_ledger(plan: SitePlan, study: Study, data: SiloDataset, ledger: Path) -> PrivacyGuarantee:
    """
    Return the guarantee that the site would give for ``data``, charged to ``ledger``, for a dry run and for an audit:
    its lifetime budget is that of one study. Raises Denied, ConfigError.
    """
    settings, own, experiment = plan.privacy, _budget(plan), plan.agreement.experiment
    assert settings is not None
    check_origins(plan, data)
    location = LedgerLocation(ledger, plan.home.dataset, plan.home.secret)
    rounds = maximum_rounds(experiment.rounds, own)
    planned = plan_guarantee(settings, study.trainer, data, rounds, experiment.seed, location)
    return replace(planned, seed=None)  # at a site the noise is never reproducible


def _budget(plan: SitePlan) -> BudgetSettings:
    own = plan.home.settings.policy.privacy
    assert own is not None  # without it a site has no privacy settings
    return own
