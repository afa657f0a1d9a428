"""What an object consists of is what its content says, and not what somebody announced first. With Flower's own store."""

from itertools import pairwise

import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store.sql_object_store import SqlObjectStore

from fedtl.deployment.coordinator.object_parts import believe_contents

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")
RUN, BOGUS = 7, "ab" * 32
EMPTY = MetricRecord({})  # of every reply without metrics


def reply(number):
    return RecordDict({"update": ConfigRecord({"silo": str(number)}), "metrics": EMPTY})


def tree(name, *children):
    return ObjectTree(object_id=name, children=children)


@pytest.fixture
def store(tmp_path, monkeypatch):
    for name in ("preregister", "put"):
        monkeypatch.setattr(SqlObjectStore, name, getattr(SqlObjectStore, name))
    believe_contents()
    its = SqlObjectStore(str(tmp_path / "state.db"))
    its.initialize()
    return its


def push(store, message):
    for name, each in get_all_nested_objects(message).items():
        store.put(name, each.deflate())


def test_a_false_announcement_keeps_no_reply_away(store):
    store.preregister(RUN, tree("cd" * 32, tree(EMPTY.object_id, tree(BOGUS))))
    honest = reply(1)
    missing = store.preregister(RUN, get_object_tree(honest))
    assert set(missing) == set(get_all_nested_objects(honest))
    push(store, honest)
    assert store.get_object_tree(honest.object_id) == get_object_tree(honest)


def test_what_is_announced_after_the_content_is_there_changes_nothing(store):
    honest = reply(1)
    store.preregister(RUN, get_object_tree(honest))
    push(store, honest)
    with pytest.raises(ValueError, match="different children"):
        store.preregister(RUN, tree("cd" * 32, tree(EMPTY.object_id, tree(BOGUS))))
    assert store.get_object_tree(honest.object_id) == get_object_tree(honest)


def test_a_content_with_other_parts_than_were_announced_is_refused(store):
    """Otherwise a false announcement would be believed as soon as the content is there, which everybody knows."""
    store.preregister(RUN, tree("cd" * 32, tree(EMPTY.object_id, tree(BOGUS))))
    with pytest.raises(ValueError, match="other parts"):
        store.put(EMPTY.object_id, EMPTY.deflate())
    assert not store.get(EMPTY.object_id)
    honest = reply(1)
    store.preregister(RUN, get_object_tree(honest))
    push(store, honest)
    assert store.get_object_tree(honest.object_id) == get_object_tree(honest)


def test_no_object_grows_by_later_announcements(store):
    """Fifty small ones, each of two objects with the same two parts, would make a tree of 2^50."""
    levels = [[f"{kind}{number:02d}" * 16 + "0" * 16 for kind in "ab"] for number in range(50)]
    for above, below in pairwise(levels):
        for name in above:
            store.preregister(RUN, tree(name, *map(tree, below)))
    assert store.get_object_tree(levels[0][0]).ByteSize() < 1000
    circle = tree("cd" * 32, tree(BOGUS, tree("cd" * 32)))
    with pytest.raises(ValueError, match="different children"):
        store.preregister(RUN, circle)
    assert "cd" * 32 not in store


def test_nothing_is_left_once_both_are_deleted(store):
    """Two replies share the record without metrics, which goes with the second one."""
    first, second = reply(1), reply(2)
    store.preregister(RUN, tree("cd" * 32, tree(EMPTY.object_id, tree(BOGUS))))
    for message in (first, second):
        store.preregister(RUN, get_object_tree(message))
        push(store, message)
    store.delete(first.object_id)
    assert store.get(EMPTY.object_id) == EMPTY.deflate()
    store.delete(second.object_id)
    store.delete("cd" * 32)
    store.delete(BOGUS)
    assert len(store) == 0
