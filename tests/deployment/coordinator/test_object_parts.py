"""What a message consists of is what its own sender says, and not what somebody announced before or after. With Flower's own store."""

from itertools import pairwise

import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store.object_store import NoObjectInStoreError
from flwr.supercore.object_store.sql_object_store import SqlObjectStore

from fedtl.deployment.coordinator.object_parts import keep_each_tree

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")
RUN, BOGUS, EVIL = 7, "ab" * 32, "cd" * 32
EMPTY = MetricRecord({})  # of every reply without metrics


def reply(number):
    return RecordDict({"update": ConfigRecord({"silo": str(number)}), "metrics": EMPTY})


def tree(name, *children):
    return ObjectTree(object_id=name, children=children)


@pytest.fixture
def flowers(tmp_path, monkeypatch):
    """A store as Flower's own; ``keep_each_tree`` changes it, too, until the test ends."""
    for name in ("preregister", "get_object_tree", "delete"):
        monkeypatch.setattr(SqlObjectStore, name, getattr(SqlObjectStore, name))
    its = SqlObjectStore(str(tmp_path / "state.db"))
    its.initialize()
    return its


@pytest.fixture
def store(flowers):
    keep_each_tree()
    return flowers


def push(store, message, *without):
    for name, each in get_all_nested_objects(message).items():
        if name not in without:
            store.put(name, each.deflate())


def is_whole(store, message):
    there = all(store.get(name) == each.deflate() for name, each in get_all_nested_objects(message).items())
    return there and store.get_object_tree(message.object_id) == get_object_tree(message)


FALSE = [
    tree(EVIL, tree(EMPTY.object_id, tree(BOGUS))),  # a part with other parts
    tree(EMPTY.object_id, tree(BOGUS)),  # as a message of its own
    tree(reply(1)["update"].object_id, tree(EMPTY.object_id)),
]


@pytest.mark.parametrize("false", FALSE)
@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_a_false_announcement_keeps_no_reply_away(store, false, when):
    """``between``: after the honest announcement, and before all of its content is there."""
    honest = reply(1)
    if when == "before":
        store.preregister(RUN, false)
    missing = store.preregister(RUN, get_object_tree(honest))
    assert set(missing) == set(get_all_nested_objects(honest))
    if when == "between":
        push(store, honest, EMPTY.object_id)
        store.preregister(RUN, false)
    push(store, honest)
    if when == "after":
        store.preregister(RUN, false)
    assert is_whole(store, honest)
    store.delete(false.object_id)
    assert is_whole(store, honest)


def test_many_sites_announce_the_same_object_which_goes_with_the_last_message(store):
    replies = [reply(number) for number in range(5)]
    for message in replies:
        store.preregister(RUN, get_object_tree(message))
    for message in reversed(replies):
        push(store, message)
    for message in replies:
        assert is_whole(store, message)
        store.delete(message.object_id)
        store.delete(message.object_id)
        with pytest.raises(NoObjectInStoreError):
            store.get_object_tree(message.object_id)
    assert len(store) == 0
    store.preregister(RUN, get_object_tree(replies[0]))
    push(store, replies[0])
    assert is_whole(store, replies[0])


def test_a_message_is_announced_again_with_its_own_tree_alone(store):
    """A site sends a reply again where the answer to it was lost."""
    honest = reply(1)
    store.preregister(RUN, get_object_tree(honest))
    push(store, honest, EMPTY.object_id)
    assert store.preregister(RUN, get_object_tree(honest)) == [EMPTY.object_id]
    with pytest.raises(ValueError, match="another tree"):
        store.preregister(RUN, tree(honest.object_id, tree(BOGUS)))
    assert BOGUS not in store
    push(store, honest)
    assert is_whole(store, honest)
    store.delete(honest.object_id)
    assert len(store) == 0


@pytest.mark.parametrize("name", ["x" * 64, "tree of " + "ab" * 28, ""])
def test_a_tree_names_objects_alone(store, name):
    with pytest.raises(ValueError, match="no object"):
        store.preregister(RUN, tree(EVIL, tree(name)))
    assert len(store) == 0


def test_no_tree_grows_and_no_chain_of_messages_is_too_long(store):
    """Each message has the one before it as a part, many times deeper than Python calls."""
    names = [f"{number:064x}" for number in range(1500)]
    for before, name in pairwise(names):
        store.preregister(RUN, tree(name, tree(before)))
    assert store.get_object_tree(names[-1]) == tree(names[-1], tree(names[-2]))
    store.preregister(RUN, tree(names[0], tree(names[-1])))  # a circle
    store.delete_objects_in_run(RUN)
    assert len(store) == 0


def test_a_run_that_ends_leaves_the_objects_of_another_one(store):
    first, second = reply(1), reply(2)
    for run, message in ((RUN, first), (RUN + 1, second)):
        store.preregister(run, get_object_tree(message))
        push(store, message)
    store.preregister(RUN, tree(EVIL, tree(EMPTY.object_id, tree(BOGUS))))
    store.delete_objects_in_run(RUN)
    assert first.object_id not in store
    assert is_whole(store, second)
    store.delete_objects_in_run(RUN + 1)
    assert len(store) == 0


def test_what_was_announced_before_an_upgrade_is_read_and_removed(flowers):
    first, second = reply(1), reply(2)
    flowers.preregister(RUN, get_object_tree(first))
    push(flowers, first)
    keep_each_tree()
    flowers.preregister(RUN, get_object_tree(second))
    push(flowers, second)
    former = flowers.get_object_tree(first.object_id)
    assert {each.object_id for each in former.children} == set(get_all_nested_objects(first)) - {
        first.object_id
    }
    assert is_whole(flowers, second)
    flowers.preregister(RUN, get_object_tree(first))  # sent again
    for message in (first, second):
        flowers.delete(message.object_id)
    assert len(flowers) == 0
