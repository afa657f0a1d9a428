"""
What transfers between the sites of a study that asked for it: the numbers that they sent with their last updates, as one result,
its page, and the settings of the recommended cut. They are computed at the sites; here they are put together.
"""

from dataclasses import replace

import tomli_w

from fedtl._util.files import write_bytes, write_json
from fedtl.deployment.coordinator.bundle import agreed, plan_study
from fedtl.deployment.coordinator.study import HostedStudy
from fedtl.errors import ConfigError
from fedtl.experiment.transfer.fragment import CUT, evidence
from fedtl.experiment.transfer.numbers import from_numbers
from fedtl.experiment.transfer.summary import summarize
from fedtl.experiment.transfer.transferability import FILE
from fedtl.federation.policy import TRANSFER
from fedtl.report.transfer_page import transfer_page
from fedtl.results.transferability import Transferability
from fedtl.training.similarity import stage_names

PAGE = "transferability.html"


def study_transferability(study: HostedStudy) -> Transferability:
    """
    Write transferability.json, the page and cut.toml into the folder of a study, and return what the first holds. Raises ConfigError
    where the study is not done or did not ask, and where no site sent its numbers.
    """
    plan = study.plan
    if not study.done:
        raise ConfigError(
            f"study {study.path.name!r} is not done; sites send what transfers in its last round, {plan.config.rounds}"
        )
    _, agreement = agreed(study, plan)
    experiment, pretrained = agreement.experiment, bool(agreement.base)
    if not experiment.request.transferability:
        raise ConfigError(
            f"study {study.path.name!r} did not ask what transfers; set request.transferability = true in another plan"
        )
    sent = {
        name: numbers
        for name, numbers in sorted(study.log.lines()[-1].silos.items())
        if any(key.startswith(f"{TRANSFER}/") for key in numbers)
    }
    if not sent:
        raise ConfigError(
            f'no site of study {study.path.name!r} sent what transfers; each allows it with "{TRANSFER}" in policy.metrics'
        )
    made = plan_study(experiment, tuple(agreement.shape), tuple(agreement.classes), agreement.dp_ready)
    names = stage_names(made.trainer)
    results = [
        from_numbers(name, experiment.seed, numbers, experiment.metric, len(names), pretrained)
        for name, numbers in sent.items()
    ]
    compare = experiment.compare.model_copy(update={"seeds": [experiment.seed]})
    silent = sorted(study.result.silos.keys() - sent.keys())
    notes = [f"not measured at {', '.join(silent)}: no numbers came"] if silent else []
    found = summarize(experiment.model_copy(update={"compare": compare}), results, names, notes)
    found = replace(found, pretrained=pretrained, deployed=True)
    write_json(study.path / FILE, found, private=True)
    page = transfer_page(found, tomli_w.dumps(experiment.model_dump(exclude_none=True)))
    write_bytes(study.path / PAGE, page.encode(), private=True)
    write_bytes(study.path / CUT, f"# {evidence(found)}\n{found.cut.fragment}".encode(), private=True)
    return found
