"""The server's step of a plan whose method distils on public inputs: the one case in which the coordinator runs models."""

from dataclasses import replace

from fedtl.data.settings import PREPARED
from fedtl.deployment.coordinator.bundle import Bundle, plan_study, read_agreement
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
    bundle = Bundle(study.path.parent.parent / "bundles" / plan.bundle_name)
    _, agreement = read_agreement(bundle.file.read_bytes(), str(bundle.file))
    if agreement.hash != plan.plan:
        raise ConfigError(f"{bundle.file} holds another plan than the study; build it again as it was")
    if not bundle.public.is_file() or bundle.public_hash != agreement.public:
        raise ConfigError(
            f"{bundle.public} is not the file of public inputs of the plan; build the bundle again as it was"
        )
    data = agreement.experiment.data.model_copy(update={"public": [f"{PREPARED}:{bundle.public}"]})
    experiment = agreement.experiment.model_copy(update={"data": data})
    made = plan_study(experiment, tuple(agreement.shape), tuple(agreement.classes), agreement.dp_ready)
    return replace(plan.config, server=server_step(made))
