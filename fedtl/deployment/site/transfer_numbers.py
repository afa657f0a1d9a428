"""What the first stages of the received model are worth to a site, as the numbers that may leave with its last update."""

from collections.abc import Mapping

from fedtl.deployment.site.site_plan import SitePlan, sent_numbers
from fedtl.experiment.study import Study
from fedtl.experiment.transfer.at_silo import is_pretrained, measured, new_spec
from fedtl.experiment.transfer.numbers import to_numbers
from fedtl.messages import Task
from fedtl.models.state import State
from fedtl.results.transferability import Begin, SiloTransfer, Training
from fedtl.training.silo import Silo
from fedtl.training.similarity import stage_measures
from fedtl.training.transplant import donors_of, transplants


def transfer_numbers(plan: SitePlan, study: Study, silo: Silo, task: Task) -> Mapping[str, float]:
    """
    Return the numbers that plan and policy let leave in this round, by name; in all rounds but the last there are none. The site
    trains 2 + 4 n models for n stages, each for the study's number of rounds, and judges them on its validation rows. Nothing in the
    silo changes. Raises Denied.
    """
    if task.round != task.rounds or not (limits := sent_numbers(plan)):
        return {}
    trainer, experiment = study.trainer, study.experiment
    donors = donors_of(trainer, silo, task.shared, new_spec(study))
    results, models = list[Training](), dict[Begin, State]()
    for begin, count, state in transplants(trainer, silo, task, donors, is_pretrained(experiment)):
        if not count:
            models[begin] = state
        results.append(measured(trainer, state, silo.data, silo.data.val, (begin, count)))
    measures = stage_measures(trainer, silo.data, donors.others, models[Begin.OWN], models[Begin.NEW])
    found = SiloTransfer(silo.name, experiment.seed, tuple(results), measures)
    return to_numbers(found, experiment.metric, limits)
