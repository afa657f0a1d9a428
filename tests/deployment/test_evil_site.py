"""
An admitted site that sends what it likes through the gate: nothing of it ends the coordinator's ServerApp or needs much memory, the output of
the server says what was wrong, and an honest update of the same site counts afterwards.
"""

import json
import math
from contextlib import closing, contextmanager

import httpx
import pytest
import torch
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import ConfigRecord, Message
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_children_ids_from_object_content,
    get_object_id,
)
from flwr.supernode.fleet_http_connection import http_request_response
from safetensors.torch import load_file

from fedtl.deployment.site.gate import not_admitted
from fedtl.experiment.config.load import load_experiment
from fedtl.federation.flower import reply_to_records
from fedtl.messages import Update
from tests.experiments import ROUNDS_ONLY
from tests.real_processes import Federation, wait

pytestmark = [pytest.mark.nightly, pytest.mark.filterwarnings("ignore:.verify=:DeprecationWarning")]
SMALL = ["rounds=1", "minimum_silos=1", "model.name=mlp", "model.settings.width=4", *ROUNDS_ONLY]
REPEATS = 25_000  # of a part of 40,000 bytes: 1 GB


def written(kind, children, body):
    """An object as Flower writes it."""
    return f"{kind} {','.join(children)} {len(body)}".encode() + b"\0" + body


def listed(*objects):
    """The id of the first object, and all by their ids."""
    return get_object_id(objects[0]), {get_object_id(each): each for each in objects}


def tree(name, objects):
    parts = get_object_children_ids_from_object_content(objects[name])
    return ObjectTree(object_id=name, children=[tree(part, objects) for part in parts])


def honest(message):
    return message.object_id, {name: each.deflate() for name, each in get_all_nested_objects(message).items()}


def no_message(message):
    return listed(ConfigRecord({"round": 1}).deflate())


def garbage(message):
    return listed(written("Message", [], b"\xff\xff\xff"))


def without_content(message):
    return listed(written("Message", [], b""))


def of_wrong_types(message):
    return listed(written("Array", [], json.dumps({"arraychunk_ids": ["x"]}).encode()))


def one_part_many_times(message):
    part = written("ArrayChunk", [], b"\0" * 40_000)
    form = {"dtype": "uint8", "shape": [1], "stype": "fedtl.safetensors", "arraychunk_ids": [0] * REPEATS}
    array = written("Array", [get_object_id(part)], json.dumps(form, separators=(",", ":")).encode())
    above = [part, array]
    for kind, name in (("ArrayRecord", "tensors"), ("RecordDict", "delta")):
        below = get_object_id(above[-1])
        above.append(written(kind, [below], json.dumps({name: below}).encode()))
    proto = ProtoMessage.FromString(message.deflate().partition(b"\0")[2])
    return listed(written("Message", [get_object_id(above[-1])], proto.SerializeToString()), *above)


ATTACKS = [no_message, garbage, without_content, of_wrong_types, one_part_many_times]


class Site:
    """A site's side of Flower's calls, through the gate."""

    def __init__(self, calls):
        _, self.receive, self.send, _, _, _, self.push, _ = calls

    def reply(self, start):
        """An update for the next task, which has not been sent."""
        task, _ = wait("task", self.receive, 90)
        zeros = {name: torch.zeros_like(tensor) for name, tensor in start.items()}
        return Message(reply_to_records(Update("evil", 1, zeros, 1.0)), reply_to=task)

    def say(self, message, root, objects, **announced):
        """Announce a reply, with other metadata where ``announced`` says so, and send its objects."""
        message.metadata.__dict__.update({"_message_id": root, **announced})
        missing, session = self.send(message, tree(root, objects), 0.0)
        for name in missing:
            self.push(message.metadata.run_id, session, name, objects[name])


@contextmanager
def connected(federation, name):
    key = load_ssh_private_key((federation.folder / name / "node.key").read_bytes(), None)
    keys, authority, error = (key, key.public_key()), str(federation.server / "tls" / "ca.crt"), None
    with http_request_response(federation.address, False, authority, keys, max_wait_time=20) as calls:
        try:
            yield Site(calls)
        except BaseException as raised:  # Flower would log it and go on
            error = raised
    if error:
        raise error


def test_no_reply_of_a_site_ends_a_study(tmp_path):
    with closing(Federation(tmp_path)) as federation:
        home = federation.add("evil")
        federation.bundle(load_experiment("digits", SMALL))
        federation.patience(60, tries=len(ATTACKS) + 1)
        federation.up()
        wait("gate", lambda: not_admitted(home) is None, 30)
        federation.start("digits", "attacked")
        again = "evil: its reply cannot be read; trying the round again"

        def output():
            return federation.log("server")

        start = load_file(federation.server / "bundles" / "digits" / "start.safetensors")
        with connected(federation, "evil") as site:
            for number, attack in enumerate(ATTACKS, 1):
                message = site.reply(start)
                site.say(message, *attack(message))
                wait(attack.__name__, lambda n=number: output().count(again) == n, 60, about=output)
            message = site.reply(start)
            for wrong in ({"_created_at": math.nan}, {"_ttl": math.nan}):
                true = dict(message.metadata.__dict__)
                with pytest.raises(httpx.HTTPStatusError, match="400"):
                    site.say(message, *garbage(message), **wrong)
                message.metadata.__dict__.update(true)
            site.say(message, *garbage(message), _reply_to_message_id="\x1b[2J\nINFO :      all is well")
            message.metadata.__dict__.update(true)
            site.say(message, *honest(message))
            assert federation.result("attacked", 60)["silos"] == {"evil": 1}
        assert "arrays of 1,000,4" in output()
        assert "ServerApp raised an exception" not in output()
        assert [line.isprintable() for line in output().splitlines() if "all is well" in line] == [True]
        assert "INFO :      all is well" not in output().splitlines()
        assert "\x1b" not in output()
        kept = (federation.server / "studies" / "attacked" / "log-study.jsonl").read_text().splitlines()
        texts = [json.loads(line)["text"] for line in kept]
        assert sum(again in text for text in texts) == len(ATTACKS)
