"""
Which objects a message in the SuperLink's store consists of: those that its sender announced. Flower 1.42.0 notes the parts of each object once,
for all messages that have it, as whoever announced it first says. Objects are named by a hash of their content, and some are known before
their content is there, such as a reply without metrics or the next task; so one site could have the messages of others refused.
"""

from typing import Any

from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import is_valid_sha256_hash, iterate_object_tree
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.state.schema.objectstore_models import ObjectChild, RunObject, StoredObject
from flwr.supercore.utils import uint64_to_int64
from sqlalchemy import delete as remove
from sqlalchemy import insert, select, update

TREE = "tree of "  # and the id of a message: the name of the object that has the message's tree, which no site can announce


def keep_each_tree() -> None:
    """
    Have the stores of this process keep the tree of each message as an object of its own, of which all objects of the message are parts, and
    which goes with the message. No other object has parts, so nobody can say of an object what is wrong for somebody else.

    What a false tree leaves out is missing where its own message is read.
    """
    store: Any = SqlObjectStore
    flowers_tree, flowers_delete = store.get_object_tree, store.delete

    def preregister(self: Any, run_id: int, object_tree: ObjectTree) -> list[str]:
        with self._mutation_session() as session:
            known = _tree(session, object_tree.object_id)
            if known is None:
                _note(self, session, run_id, object_tree)
            elif known != object_tree:
                raise ValueError(f"message {object_tree.object_id} was announced with another tree")
            missing = _parts(object_tree.object_id).where(StoredObject.is_available == 0)
            return list(session.scalars(missing))

    def get_object_tree(self: Any, object_id: str) -> ObjectTree:
        with self.session() as session:
            return _tree(session, object_id) or flowers_tree(self, object_id)

    def delete(self: Any, object_id: str) -> None:
        with self._mutation_session() as session:
            parts = list(session.scalars(_parts(object_id)))
            _count(session, object_id, -1)
            session.execute(remove(StoredObject).where(StoredObject.object_id == TREE + object_id))
            for each in parts or [object_id]:
                flowers_delete(self, each)  # unless it is part of another message

    store.preregister, store.get_object_tree, store.delete = preregister, get_object_tree, delete


def is_whole(store: Any, message_id: str) -> bool:
    """Whether the contents of all objects of a message are there; True for a message that is not there at all."""
    with store.session() as session:
        missing = _parts(message_id).where(StoredObject.is_available == 0)
        return session.scalar(missing.limit(1)) is None


def _tree(session: Any, object_id: str) -> ObjectTree | None:
    """Return the tree of a message; None for any other object, and for a message that was announced before fedtl kept trees."""
    written = session.scalar(select(StoredObject.content).where(StoredObject.object_id == TREE + object_id))
    return None if written is None else ObjectTree.FromString(written)


def _note(store: Any, session: Any, run_id: int, tree: ObjectTree) -> None:
    """Store the tree of a message, with what it names as parts. Raises ValueError for a name that Flower gives no object."""
    names, whole = {node.object_id for node in iterate_object_tree(tree)}, TREE + tree.object_id
    if not all(map(is_valid_sha256_hash, names)):
        raise ValueError("a tree names what is no object")
    for name in sorted(names):
        empty = store.dialect_insert(StoredObject).values(
            object_id=name, content=b"", is_available=0, ref_count=0
        )
        session.execute(empty.on_conflict_do_nothing())
        of_run = store.dialect_insert(RunObject).values(run_id=uint64_to_int64(run_id), object_id=name)
        session.execute(of_run.on_conflict_do_nothing())
    written = {"object_id": whole, "content": tree.SerializeToString(), "is_available": 1, "ref_count": 0}
    session.execute(insert(StoredObject), [written])
    session.execute(insert(ObjectChild), [{"parent_id": whole, "child_id": name} for name in sorted(names)])
    _count(session, tree.object_id, 1)


def _parts(object_id: str) -> Any:
    """Select the ids of a message's objects, its own included."""
    of_tree = ObjectChild.child_id == StoredObject.object_id
    return (
        select(StoredObject.object_id)
        .join(ObjectChild, of_tree)
        .where(ObjectChild.parent_id == TREE + object_id)
    )


def _count(session: Any, object_id: str, more: int) -> None:
    """Add to the ``ref_count`` of a message's objects: of how many each is a part. Flower deletes those that are part of none."""
    parts = select(ObjectChild.child_id).where(ObjectChild.parent_id == TREE + object_id)
    counted = update(StoredObject).where(StoredObject.object_id.in_(parts))
    session.execute(
        counted.values(ref_count=StoredObject.ref_count + more),
        execution_options={"synchronize_session": False},
    )
