"""What was found on disk as nodes of a tree."""

from __future__ import annotations

import grp
from functools import lru_cache
from typing import Literal

from mover.repository.locks import user_name
from mover.repository.reading import Found
from mover.repository.tree import Node, Xattr


def node_of(
    facts: Found,
    kind: Literal["file", "dir", "symlink"],
    *,
    size: int = 0,
    content: tuple[bytes, ...] | None = None,
    subtree: bytes | None = None,
    xattrs: tuple[Xattr, ...] = (),
) -> Node:
    return Node(
        name=facts.name,
        type=kind,
        mode=facts.mode,
        mtime_ns=facts.mtime_ns,
        ctime_ns=facts.ctime_ns,
        uid=facts.uid,
        gid=facts.gid,
        user=_user(facts.uid),
        group=_group(facts.gid),
        inode=facts.inode,
        device_id=facts.device_id,
        size=size,
        links=0 if kind == "dir" else facts.links,
        target=facts.target,
        xattrs=xattrs,
        content=content,
        subtree=subtree,
    )


@lru_cache(maxsize=1024)
def _user(uid: int) -> str:
    return user_name(uid)


@lru_cache(maxsize=1024)
def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return ""
