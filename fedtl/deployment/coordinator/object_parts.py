"""
Which parts an object has in the SuperLink's store: what its content says. Flower 1.42.0 believes the first site that announces an object, and
refuses everybody who announces it with other parts. Objects are named by a hash of their content, and some contents are known in advance, such as
those of a reply without metrics or of the next task; so one site could have the replies of all others refused.
"""

from typing import Any

from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    get_object_children_ids_from_object_content,
    iterate_object_tree,
)
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.state.schema.objectstore_models import ObjectChild, StoredObject
from sqlalchemy import delete, insert, select, update


def believe_contents() -> None:
    """
    Have the stores of this process believe the last announcement of an object until its content is there, and refuse a content with other parts
    than were announced: then what is there has the parts that it says.
    """
    store: Any = SqlObjectStore
    preregister, put = store.preregister, store.put

    def announced(self: Any, run_id: int, object_tree: ObjectTree) -> list[str]:
        with self._mutation_session() as session:
            for node in iterate_object_tree(object_tree):
                parts = {child.object_id for child in node.children}
                if _is_unproven(session, node.object_id) and _parts(session, node.object_id) != parts:
                    for child in node.children:  # their rows must be there
                        preregister(self, run_id, child)
                    _replace_parts(session, node.object_id, parts)
            missing: list[str] = preregister(self, run_id, object_tree)
            return missing

    def stored(self: Any, object_id: str, object_content: bytes) -> None:
        with self._mutation_session() as session:
            put(self, object_id, object_content)
            if _parts(session, object_id) != set(get_object_children_ids_from_object_content(object_content)):
                raise ValueError(f"object {object_id} has other parts than were announced")

    store.preregister, store.put = announced, stored


def _is_unproven(session: Any, object_id: str) -> bool:
    """Whether an object was announced and its content has not come."""
    available = select(StoredObject.is_available).where(StoredObject.object_id == object_id)
    return bool(session.scalar(available) == 0)


def _parts(session: Any, object_id: str) -> set[str]:
    return set(session.scalars(select(ObjectChild.child_id).where(ObjectChild.parent_id == object_id)))


def _replace_parts(session: Any, object_id: str, parts: set[str]) -> None:
    """
    Set the parts of an object, and take it from the objects that it was a part of: otherwise these would grow with each announcement, and a few
    small ones could make a tree of any size. ``ref_count``: how many objects one is a part of; Flower deletes those that are part of none.
    """
    former = _parts(session, object_id)
    session.execute(
        delete(ObjectChild).where((ObjectChild.parent_id == object_id) | (ObjectChild.child_id == object_id))
    )
    for names, count in (
        (former, StoredObject.ref_count - 1),
        (parts, StoredObject.ref_count + 1),
        ({object_id}, 0),
    ):
        session.execute(update(StoredObject).where(StoredObject.object_id.in_(names)).values(ref_count=count))
    for name in sorted(parts):
        session.execute(insert(ObjectChild).values(parent_id=object_id, child_id=name))
