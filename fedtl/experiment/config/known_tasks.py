"""What works with some tasks only. Imports no task, because the idle processes of a site read agreements and stay small."""

from fedtl.errors import ConfigError
from fedtl.experiment.config.schema import Experiment
from fedtl.models.folder_files import is_folder_name

KNOWN = ("classification", "regression")  # those whose ``LearningTask.everywhere`` is true
SEGMENTATION = "segmentation"


def check_in_memory(experiment: Experiment, what: str) -> None:
    """Raise ConfigError where ``what``, a command, needs all rows in memory, and images are streamed."""
    if experiment.data.stream:
        raise ConfigError(
            f"{what} needs all rows in memory, and data.stream = true; set it to false, with a part of the files"
        )


DEPLOYMENT = "a deployment"
INSTEAD = {
    "fedtl audit": "its attacks and canaries need one label a row; fedtl show states what leaves and the planned epsilon",
    "a deployment": "what a site signs is defined for one label a row, and for masks; compare in a simulation (fedtl compare)",
    "fedtl silo audit": "its canaries need one label a row; fedtl silo rehearse states what would leave and the planned epsilon",
    "--distil": "a student learns from one answer a row; fedtl predict uses the models of the run as they are",
    "fedtl transferability": "its measures need one label a row; fedtl compare measures what joining brings",
}


def check_every_task(experiment: Experiment, what: str) -> None:
    """Raise ConfigError where ``what``, a command, cannot be used with the task, or with streamed images."""
    check_in_memory(experiment, what)
    if experiment.data.task not in KNOWN:
        raise ConfigError(
            f'{what} works with classification and regression only, and data.task = "{experiment.data.task}": {INSTEAD[what]}'
        )


def check_deployment(experiment: Experiment) -> None:
    """Raise ConfigError where institutions cannot agree on the task, on the model, or on an answer that the experiment asks for."""
    check_in_memory(experiment, DEPLOYMENT)
    task, name = experiment.data.task, experiment.model.name
    asked = {
        "data.public": experiment.data.public,
        "request.transferability": experiment.request.transferability,
    }
    for key, value in asked.items() if is_folder_name(name) else ():
        if value:  # the coordinator would build the model again, and has only the plan
            raise ConfigError(f"{key} cannot be used in {DEPLOYMENT} with model.name = {name!r}; remove it")
    if task not in (*KNOWN, SEGMENTATION):
        raise ConfigError(
            f'{DEPLOYMENT} works with classification, regression and segmentation only, and data.task = "{task}": {INSTEAD[DEPLOYMENT]}'
        )
    for key in ("verdict", "transferability"):
        if task == SEGMENTATION and getattr(experiment.request, key):
            raise ConfigError(
                f'request.{key}: it works with one label a row only, and data.task = "{task}"; remove it'
            )
