"""After a withdrawal the study without the site gives the bits of a study that the site was never in."""

import pytest
import torch

from fedtl.deployment.coordinator.admitted import AdmittedSite, node_ids, write_admitted
from fedtl.deployment.coordinator.host import host_study
from fedtl.deployment.coordinator.sites import check_name
from fedtl.deployment.coordinator.study import HostedStudy
from fedtl.deployment.coordinator.study_files import StudyPlan
from fedtl.deployment.coordinator.withdrawal import name_without, withdraw_site
from fedtl.errors import ConfigError
from fedtl.federation.rounds import FederationConfig
from fedtl.messages import Update
from fedtl.methods.server import ServerStep
from fedtl.models.roles import Role

START = {"body.w": torch.zeros(3)}


class Silos:
    """ "a" and "b" in all rounds, "late" from a round on. Each update is of its silo and round."""

    def __init__(self, late):
        self.late, self.now = late, 1

    def away(self):
        return {}

    def silos(self):
        return ["a", "b", "late"] if self.now >= self.late else ["a", "b"]

    def ask(self, task, silos):
        self.now = task.round + 1
        for name in silos:
            generator = torch.Generator().manual_seed(100 * task.round + len(name))
            yield Update(name, task.round, {"body.w": torch.randn(3, generator=generator)}, 1.0)


def hosted(folder, name, late, rounds=5):
    """A study whose server step has a state of its own."""
    config = FederationConfig(name, 0, rounds, ServerStep("adam", settings={"lr": 0.1}))
    facts = {"deadline": 1.0, "tries": 2, "bundle": "h", "plan": "p"}
    study = HostedStudy.create(
        folder / "studies" / name, StudyPlan(config, {"body.w": Role.BODY}, "b", **facts), START
    )
    host_study(study, lambda plan, former: Silos(late))
    return study


@pytest.fixture
def server(tmp_path):
    write_admitted(tmp_path, {name: AdmittedSite(name, 7) for name in ("a", "b", "late")})
    return tmp_path


@pytest.mark.parametrize("late", [1, 2, 4])
def test_the_study_without_a_site_is_as_if_it_had_never_joined(server, late):
    hosted(server, "first", late)
    (without,) = withdraw_site(server, "late")
    assert (without.counted, without.after) == (list(range(late, 6)), late - 1)
    assert set(node_ids(server)) == {"a", "b"}
    never = hosted(server / "other", without.name, 99)
    again = hosted(server, without.name, 99)  # continues the one that was prepared
    assert [line.round for line in again.log.lines()] == [1, 2, 3, 4, 5]
    assert torch.equal(again.state().shared["body.w"], never.state().shared["body.w"])
    assert not torch.equal(
        again.state().shared["body.w"], HostedStudy(server / "studies" / "first").state().shared["body.w"]
    )


def test_a_state_that_was_not_kept_is_not_made_up(server):
    """As in the folder of a study that an earlier fedtl ran."""
    study = hosted(server, "first", 3)
    assert [path.name for path in (study.path / "before").iterdir()] == ["3"]
    (study.path / "before" / "3" / "checkpoint" / "state.pt").unlink()
    (without,) = withdraw_site(server, "late")
    assert without.after is None
    assert not (server / "studies" / without.name).exists()


def test_a_withdrawal_can_be_repeated_and_an_unknown_site_is_refused(server):
    hosted(server, "first", 3)
    assert withdraw_site(server, "late") == withdraw_site(server, "late")
    write_admitted(server, {})  # it was expelled since
    assert withdraw_site(server, "late")[0].after == 2
    with pytest.raises(ConfigError, match="no site 'other'"):
        withdraw_site(server, "other")


def test_a_preparation_that_was_cut_off_is_made_anew(server):
    hosted(server, "first", 3)
    (whole,) = withdraw_site(server, "late")
    other = HostedStudy(server / "studies" / whole.name)
    state, lines = other.state(), other.log.lines()
    (other.path / "checkpoint" / "state.pt").unlink()
    assert withdraw_site(server, "late") == [whole]
    assert other.log.lines() == lines
    assert torch.equal(other.state().shared["body.w"], state.shared["body.w"])


def test_names_of_any_length_give_the_name_of_a_study():
    assert name_without("first", "late") == "first-without-late"
    long = {name_without("s" * 64, site * 64) for site in "ab"}
    assert len(long) == 2
    assert all(check_name(name) == name for name in long)
