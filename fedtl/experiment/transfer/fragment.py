"""The recommended cut as settings: a TOML fragment, and ``cut.toml``, an experiment that ``fedtl run`` takes as it is."""

import tomli_w

from fedtl._util.files import write_file
from fedtl.experiment.config.load import to_toml, with_changes
from fedtl.experiment.config.schema import Experiment, MethodSettings
from fedtl.experiment.run_folder import RunFolder
from fedtl.results.transferability import Transferability

CUT = "cut.toml"


def fragment(method: str, stages: int) -> str:
    """Return the settings of a cut: the first ``stages`` of the body are shared; 0: nothing is."""
    return tomli_w.dumps({"method": {"name": method, "cut": stages} if stages else {"name": "local"}})


def write_cut(folder: RunFolder, experiment: Experiment, summary: Transferability) -> None:
    """Write the experiment with the recommended cut, and why it is recommended."""
    count, method = summary.cut.stages, experiment.method
    if count:
        method = method.model_copy(update={"cut": count})
    else:
        method = MethodSettings(name="local", tune=method.tune, choose=method.choose)
    text = f"# {evidence(summary)}\n" + to_toml(with_changes(experiment, method=method))
    write_file(folder.path / CUT, lambda file: file.write_text(text))


def evidence(summary: Transferability) -> str:
    """Return in one line what was measured at the recommended cut."""
    return (
        f"{'sites of a study' if summary.deployed else 'fedtl transferability'}, {len(summary.silos)} silos, seeds {', '.join(map(str, summary.seeds))}: "
        f"the first {summary.cut.stages} of {len(summary.stages)} stages are shared; evidence in transferability.json"
    )
