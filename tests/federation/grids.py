"""The part of Flower that its server uses, without a network: messages as they arrive, and a grid whose nodes are functions."""

import time
from dataclasses import dataclass, field

import torch
from flwr.app import Array, ArrayRecord, Message
from flwr.app.error import Error
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

from fedtl.federation.flower import ARRAY, KIND, FlowerFederation, answer_message
from fedtl.federation.rounds import FederationConfig, ServerState, run_rounds
from fedtl.messages import Task, Update
from fedtl.methods.server import ServerStep
from fedtl.models.roles import Role

SHARED = {"body.w": torch.zeros(2, 2)}
TASK = Task("study", 1, 3, 7, SHARED)
TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 7, 1, 1  # a Message asks for them


def wire(message):
    """The message after Flower's own serialisation to bytes and back."""
    objects = {key: its.deflate() for key, its in get_all_nested_objects(message).items()}
    back = inflate_object_from_contents(message.object_id, objects)
    back.metadata.__dict__["_message_id"] = message.object_id
    return back


def sent(content):
    message = Message(content, 5, "train")
    message.metadata.__dict__["_message_id"] = message.object_id
    message.metadata.__dict__["_src_node_id"] = 1
    return message


def record(content, kind=KIND, name=ARRAY):
    return ArrayRecord({name: Array("uint8", (len(content),), kind, content)})


@dataclass
class Grid:
    """The part of Flower's Grid that is used. Each node answers with a function of its task."""

    acts: dict
    online: set
    pushed: list = field(default_factory=list)

    def get_node_ids(self):
        return list(self.online)

    def push_messages(self, messages):
        self.pushed = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = message.object_id
            message.metadata.__dict__["_src_node_id"] = 1
            self.pushed.append(message)
        return [message.object_id for message in self.pushed]

    def pull_messages(self, ids):
        ready = []
        for message in self.pushed:
            act = self.acts[message.metadata.dst_node_id]
            if act and message.object_id in ids:
                ready.append(wire(answer_message(wire(message), lambda decode, act=act: act(decode()))))
            elif (
                message.object_id in ids and time.time() >= message.metadata.created_at + message.metadata.ttl
            ):
                ready.append(Message(Error(code=3), reply_to=message))  # as Flower does
        return ready


def moving(silo, by, **changes):
    def act(task):
        delta = {name: torch.full_like(its, by) for name, its in task.shared.items()}
        return Update(**{"silo": silo, "round": task.round, "delta": delta, "weight": 1.0, **changes})

    return act


NODES = {"a": 11, "b": 12, "c": 13}


def federation(acts, online=None, minimum=1, deadline=0.5):
    grid = Grid({NODES[name]: act for name, act in acts.items()}, {NODES[n] for n in online or acts})
    return FlowerFederation(grid, lambda: NODES, minimum, deadline), grid


def one_round(acts, minimum=1):
    over, _ = federation(acts, minimum=minimum)
    plan = FederationConfig("study", 7, 1, ServerStep(), None, minimum)
    (only,) = run_rounds(over, plan, ServerState(0, SHARED), {"body.w": Role.BODY})
    return only
