"""
A coordinator who holds the server's machine, and so may run another fedtl there than the sites approved: on the path
of the server's processes this file comes first, and the honest bundle's ServerApp finds ``host_study`` replaced. What it asks
for is a script of one line each; what it is told goes into ``replies.jsonl``.
"""

import json
import sys
from dataclasses import replace

if sys.orig_argv[-1:] and any(word.endswith("flwr-serverapp") for word in sys.orig_argv):
    import torch
    from flwr.app import ConfigRecord, RecordDict

    from fedtl._util.files import append_durably, write_bytes
    from fedtl.deployment.coordinator import host as hosting
    from fedtl.federation import flower
    from fedtl.messages import Task

    def script(task):
        """(name, task, and the records where they are not just the task's)"""
        shared, honest = task.shared, flower.task_to_records(task)
        first = next(name for name, its in shared.items() if its.dim() > 1)
        wide = torch.cat([shared[first]] * 2)
        moved = {name: its + 1 for name, its in shared.items()}
        extra = {**honest["task"], "noise_multiplier": 0.01}
        yield "head", replace(task, shared={**shared, "head.weight": torch.zeros(10, 64)}), None
        stats = {**shared, "body.features.1.norm.running_mean": torch.zeros(32)}
        yield "statistics", replace(task, shared=stats), None
        yield "larger body", replace(task, shared={**shared, first: wide}), None
        yield "less noise, as a setting", task, RecordDict({**honest, "task": ConfigRecord(extra)})
        more = ConfigRecord({"noise_multiplier": 0.01})
        yield "less noise, as a record", task, RecordDict({**honest, "privacy": more})
        yield "less noise, by fewer rounds", replace(task, rounds=1), None
        for number in (1, 2, 3):
            yield f"round {number}", replace(task, round=number), None
        yield "round 3 again", replace(task, round=3), None
        yield "another round 3", replace(task, round=3, shared=moved), None
        yield "an older round", replace(task, round=2), None
        yield "more than the budget", replace(task, study="second"), None

    def host_study(study, connect, progress=None, configure=None):
        config, records = study.plan.config, flower.task_to_records
        alone = replace(study.plan, config=replace(config, minimum_silos=1), deadline=240.0)
        over = connect(alone, ())
        task = Task(config.study, 1, config.rounds, config.seed, study.state().shared)
        for name, asked, content in script(task):
            flower.task_to_records = records if content is None else lambda _, content=content: content
            for silo in over.silos():
                (reply,) = over.ask(asked, [silo])
                told = getattr(reply, "reason", sorted(getattr(reply, "delta", ())))
                line = json.dumps({"asked": name, "silo": silo, "told": told})
                append_durably(study.path / "replies.jsonl", f"{line}\n")
            flower.task_to_records = records
        write_bytes(study.path / "result.json", json.dumps({}).encode(), private=True)

    hosting.host_study = host_study
