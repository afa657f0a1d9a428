"""What works with two tasks only. Imports no task, because the idle processes of a site read agreements and stay small."""

from fedtl.errors import ConfigError
from fedtl.experiment.config.schema import Experiment
from fedtl.models.folder_files import is_folder_name

KNOWN = ("classification", "regression")  # those whose ``LearningTask.everywhere`` is true


def check_in_memory(experiment: Experiment, what: str) -> None:
    """Raise ConfigError where ``what``, a command, needs all rows in memory, and images are streamed."""
    if experiment.data.stream:
        raise ConfigError(
            f"{what} needs all rows in memory, and data.stream = true; set it to false, with a part of the files"
        )


INSTEAD = {
    "fedtl audit": "its attacks and canaries need one label a row; fedtl show states what leaves and the planned epsilon",
    "a deployment": "what a site signs and what a verdict states is defined for one label a row; compare in a simulation (fedtl compare)",
    "--distil": "a student learns from one answer a row; fedtl predict uses the models of the run as they are",
    "fedtl transferability": "its measures need one label a row; fedtl compare measures what joining brings",
}


def check_every_task(experiment: Experiment, what: str) -> None:
    """Raise ConfigError where ``what``, a command, cannot be used with the task, or with streamed images."""
    check_in_memory(experiment, what)
    if what == "a deployment" and is_folder_name(experiment.model.name):
        raise ConfigError(
            f"model.name = {experiment.model.name!r} is a folder of this machine, and sites agree by hash on a file of weights only, not on a "
            'tokenizer; train text in a simulation, or at sites as hashed words (data.text with model.name = "mlp")'
        )
    if experiment.data.task not in KNOWN:
        raise ConfigError(
            f'{what} works with classification and regression only, and data.task = "{experiment.data.task}": {INSTEAD[what]}'
        )
