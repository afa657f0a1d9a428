"""The privacy guarantees of the silos of a simulation, each with a ledger in the run folder."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fedtl._util.randomness import address
from fedtl.data.dataset import SiloDataset
from fedtl.errors import ConfigError
from fedtl.experiment.config.resolve import privacy_of
from fedtl.experiment.privacy_plan import LedgerLocation, plan_guarantee
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import Study
from fedtl.privacy.canaries import Canaries
from fedtl.privacy.guarantee import PrivacyGuarantee

LEDGER = "ledger.sqlite"  # of a silo, in its folder of a run


def with_guarantees(study: Study, folder: RunFolder) -> Study:
    """Return the study with the guarantee of each silo that trains; unchanged without ``[privacy]``. Raises ConfigError."""
    if study.experiment.privacy is None:
        return study
    for text in unknown_silos(study):
        raise ConfigError(text)
    guarantees = {name: silo_guarantee(study, name, folder.silo(name)) for name in study.training}
    return replace(study, guarantees=guarantees)


def unknown_silos(study: Study) -> Iterator[str]:
    """Yield a line for each table ``[silo.<name>]`` of a silo that does not train."""
    for name in sorted(set(study.experiment.silo) - set(study.training)):
        yield f"silo.{name}: no silo of that name trains; there are {', '.join(study.training[:12])}"


def silo_guarantee(
    study: Study, name: str, folder: Path, data: SiloDataset | None = None
) -> PrivacyGuarantee:
    """Return a silo's guarantee, for its own rows or for other ``data``; its ledger is in ``folder``. Raises ConfigError."""
    experiment = study.experiment
    settings = privacy_of(experiment, name)
    if settings.statistics == "auto":
        settings = settings.model_copy(update={"statistics": "public"})
    ledger = LedgerLocation(folder / LEDGER, name, study.secret(name))
    guarantee = plan_guarantee(
        settings, study.trainer, data or study.data(name), experiment.rounds, experiment.seed, ledger
    )
    if not (count := experiment.audit.canaries):
        return guarantee
    coins = address("canaries", experiment.seed, name, key=study.secret(name))
    return replace(guarantee, canaries=Canaries(count, coins, folder / "canaries"))
