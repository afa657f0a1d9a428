"""A site as a test needs it: its home, its bundle, and its answers to tasks."""

import os
import shutil
from pathlib import Path

import torch

from fedtl.deployment.plan import load_agreement, make_agreement
from fedtl.deployment.site.answer_round import answer_round
from fedtl.deployment.site.approve import record_approval
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.signed import SignedTerms
from fedtl.deployment.site.signing import present_terms
from fedtl.deployment.site.site_plan import SitePlan, build_study, check_policy
from fedtl.deployment.site.site_rows import load_rows
from fedtl.deployment.site.site_silo import make_silo, site_guarantee
from fedtl.experiment.config.load import load_experiment
from fedtl.messages import Refusal, Task
from tests.commands import COSTS
from tests.real_processes import Federation

SETTINGS = ["rounds=4", "minimum_silos=2", "data.limit=40"]
PRIVATE = {"epsilon": 8.0, "lifetime_epsilon": 8.0, "clip": 1.0, "statistics": "public"}


MADE = {}  # by what a site was made of, without paths: its folder as it was made, the initial shared tensors and their roles


class Site:
    """
    A site's folder, an agreement that it approved, and the tasks that a server would send. A second site of the same settings is a copy of
    the first as it was made: to approve takes longer than most tests.
    """

    def __init__(self, folder, overrides=(), dp_ready=False, base="", classes=(), **settings):
        self.file = folder / "plan.toml"
        of = repr((overrides, dp_ready, base, classes, settings))
        if of not in MADE:
            self._make(folder, overrides, dp_ready, base, classes, settings)
            if "/" not in of:
                kept = Path(os.environ[COSTS]) / f"site-{os.getpid()}-{len(MADE)}"
                shutil.copytree(folder / "home", kept / "home")
                shutil.copy2(self.file, kept)
                MADE[of] = kept, self.shared, self.roles
            return
        kept, self.shared, self.roles = MADE[of]
        shutil.copytree(kept / "home", folder / "home")
        shutil.copy2(kept / self.file.name, self.file)
        self.home = Home.open(folder / "home")
        self.plan = SitePlan(self.home, load_agreement(self.file))

    def _make(self, folder, overrides, dp_ready, base, classes, settings):
        Home.create(folder / "home", "plain", "localhost:1")
        given = {
            "data__source": "digits",
            "data__path": "",
            "data__limit": 40,
            "policy__privacy": None,
            "policy__share_row_count": True,
            "policy__metrics": ["accuracy"],
            "policy__minimum_silos": 2,
            **settings,
        }
        Federation.change(folder / "home" / "silo.toml", **given)
        its = make_agreement(
            load_experiment("digits", [*SETTINGS, *overrides]), (1, 8, 8), classes, base, dp_ready
        )
        self.file.write_text(its.dump())
        self.home = Home.open(folder / "home")
        self.approve()
        trainer = self.plan.dry_study.trainer
        self.shared, _ = trainer.partition.split(trainer.initial(10))
        self.roles = trainer.partition.roles

    def approve(self, studies=1, until="2999-12-31"):
        """Approve the plan in the file under the present terms."""
        self.home = Home.open(self.home.path)
        self.plan = plan = SitePlan(self.home, load_agreement(self.file))
        check_policy(plan)
        guarantee = self.guarantee() if plan.privacy else None
        signed = present_terms(plan, load_rows(plan).data, guarantee, studies, until)
        return record_approval(self.home, "0" * 64, signed, plan.manifest, None)

    def study(self):
        return build_study(self.plan, load_rows(self.plan).data.classes)

    def silo(self, study):
        return make_silo(self.plan, study, load_rows(self.plan))

    def guarantee(self):
        return site_guarantee(self.plan, self.study(), load_rows(self.plan))

    def task(self, number=1, **changes):
        return Task(
            **{"study": "s", "round": number, "rounds": 4, "seed": 0, "shared": self.shared, **changes}
        )

    def ask(self, task):
        return answer_round(Home.open(self.home.path), lambda: self.file, lambda: task)

    def refused(self, task, code, reason):
        reply = self.ask(task)
        assert isinstance(reply, Refusal)
        assert reply.reason == code
        assert reason in self.lines()[-1]["reason"]
        assert self.lines()[-1]["what"] == "refused"

    def lines(self):
        return [line.as_json() for line in self.home.record.written()]

    def terms_signed(self):
        return SignedTerms.model_validate(
            next(line for line in self.lines() if line["what"] == "approved")["signed"]
        )

    def kept(self):
        (path,) = (self.home.path / "state").rglob("*.safetensors")
        return path


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
