"""The server's step of a plan whose method distils on public inputs: the one case in which the coordinator runs models."""

from dataclasses import replace

from fedtl.data.settings import PREPARED
from fedtl.deployment.coordinator.bundle import agreed, plan_study
from fedtl.deployment.coordinator.study import HostedStudy
from fedtl.deployment.coordinator.study_files import StudyPlan
from fedtl.errors import ConfigError
from fedtl.experiment.server_step import server_step
from fedtl.federation.rounds import FederationConfig


def with_public_model(study: HostedStudy, plan: StudyPlan) -> FederationConfig:
    """
    Return the configuration of the rounds of feddf, whose step has the net of the plan, and the public inputs that lie next to the
    bundle. Raises ConfigError where these are not the plan's.
    """
    bundle, agreement = agreed(study, plan)
    if not bundle.public.is_file() or bundle.public_hash != agreement.public:
        raise ConfigError(
            f"{bundle.public} is not the file of public inputs of the plan; build the bundle again with the same settings"
        )
    data = agreement.experiment.data.model_copy(update={"public": [f"{PREPARED}:{bundle.public}"]})
    experiment = agreement.experiment.model_copy(update={"data": data})
    made = plan_study(experiment, tuple(agreement.shape), tuple(agreement.classes), agreement.dp_ready)
    return replace(plan.config, server=server_step(made))
