"""Every command that a page shows in a block is executed by a test, or has a reason here or in the lists that this file reads."""

from tests.pages.test_federation import OF_SITES
from tests.pages.test_howto_commands import EXECUTED, HOWTOS, OTHERS, shown
from tests.pages.tutorial import ROOT

TUTORIALS = (
    ROOT / "docs" / "tutorials"
)  # tests/pages/test_tutorials.py and test_federation.py execute all of their blocks
MINUTES = "takes minutes; "
NOT_EXECUTED = {
    "fedtl compare digits": MINUTES + "the tutorial digits runs it with fewer rounds and one seed",
    "fedtl compare hospitals.toml": "the folder of test_howto_commands.py is made by it, with --out",
    "fedtl methods | models | data": "three commands in one line; cli/test_commands.py executes them",
    "fedtl run digits --set data.late='[\"textured\"]' --out runs/without-textured": MINUTES
    + "the tutorial new-site has it shorter",
    "fedtl onboard runs/without-textured --data digits --shots 1,5,20 --episodes 100": MINUTES
    + "the tutorial new-site has it shorter",
    "fedtl onboard clinic-model --data new-clinic.toml": "cli/test_onboard.py executes it with other names",
    "fedtl run digits --set method.name=simclr": MINUTES + "methods/test_self_supervised.py trains simclr",
    "fedtl onboard runs/body --data digits --silo rotated --shots 1,5": MINUTES
    + "the tutorial new-site has another",
    "fedtl audit digits --set privacy.epsilon=3 --quick": MINUTES + "the tutorial private audits a run",
    "fedtl audit RUN --quick --adversary model": MINUTES + "the tutorial private audits a run",
    "fedtl audit verify BUNDLE --key KEY": "the tutorial private verifies a bundle, without the key of its signer",
    "fedtl run exp.toml --set engine.name=ray": "test_other_programs.py executes it on two nodes, nightly",
}


def test_every_command_of_a_page_is_executed_or_has_a_reason():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    pages += [ROOT / folder / "README.md" for folder in ("clients", "server", "deploy", "simulations")]
    listed = shown(
        page for page in pages if page.parent not in (TUTORIALS, HOWTOS)
    )  # test_howto_commands.py asks for those
    others = {line for line in listed - EXECUTED.keys() - OTHERS.keys() if not line.startswith(OF_SITES)}
    assert [line for line in others if not line.startswith(tuple(NOT_EXECUTED))] == []
    assert [line for line in NOT_EXECUTED if not any(one.startswith(line) for one in others)] == []
