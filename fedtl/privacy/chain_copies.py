"""A whole copy of a file of hash chains while others may write to it, and whether a copy is older than what was seen."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from fedtl._util.files import write_bytes
from fedtl.errors import LedgerDamaged
from fedtl.privacy.hash_chain import HashChainFile

ChainEnds = Mapping[str, tuple[int, str]]  # by chain: its number of lines and the hash of its last one


def copy_chains(file: HashChainFile, folder: Path) -> list[Path]:
    """
    Copy the file and its tip into ``folder``, and return the copies; none where the file has no line. No other process can commit meanwhile, so
    the tip is at most behind the lines. Raises LedgerDamaged where a chain is broken, and SiloFailed.
    """
    with file.read_all() as chains:
        if not chains:
            return []
        new = folder / file.path.name
        write_bytes(new, b"", private=True)
        with closing(sqlite3.connect(new)) as target:
            chains[0].connection.backup(target)
        write_bytes(folder / file.tip.name, file.tip.read_bytes(), private=True)
    return [new, folder / file.tip.name]


def chain_ends(file: HashChainFile) -> ChainEnds:
    """
    Return the end of each chain; where the lines cannot be read, or fewer than the tip has, those of the tip. Raises LedgerDamaged
    where neither can be read.
    """
    try:
        with file.read_all() as chains:
            return {chain.name: (len(chain.entries), chain.last_hash) for chain in chains if chain.entries}
    except LedgerDamaged:
        return file.tips()


def forgotten(file: HashChainFile, seen: ChainEnds) -> str:
    """
    Return which chain of ``file`` lacks lines that were seen, or has others in their place, and how many lines it has; "" for none.
    Raises LedgerDamaged where a chain is broken.
    """
    with file.read_all() as chains:
        have = {chain.name: chain.entries for chain in chains}
    for name, (count, digest) in sorted(seen.items()):
        lines = have.get(name, [])
        if len(lines) < count:
            return f"{file.path.name}, {name}: it has {len(lines)} lines, and {count} were written"
        if count and lines[count - 1][1] != digest:
            return f"{file.path.name}, {name}: line {count} is another than the one that was written"
    return ""
