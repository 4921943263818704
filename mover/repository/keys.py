"""The key files of a repository: each wraps the one master key under a password of its own.

Whoever holds one password reads everything, so a removed key shuts nobody out who has seen the master key before;
it ends what a leaked password opens *from now on*. A key is removed only while another is proved to open the
repository: the one in use, or one whose password the caller shows.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator

import msgspec

from mover.clock import SYSTEM
from mover.errors import Conflict, Denied, EntryMissing, NotFound, RepositoryDamaged, RequestInvalid
from mover.repository.crypto import KeyFile, MasterKey, unwrap_key, wrap_key
from mover.repository.facts import KeyFacts
from mover.repository.files import MAX_KEY_FILE_BYTES, RepositoryFiles
from mover.repository.locks import locked, user_name

# restic tries as many; each costs a scrypt.
MAX_KEYS = 20


def list_keys(files: RepositoryFiles, *, current: str) -> list[KeyFacts]:
    """What the key files say about themselves, in the order they say they were made. Nothing of it is authenticated:
    a key file is read before any key is known."""
    found = []
    for key_id, content in _contents(files):
        wire = _decoded(content)
        if wire is not None:
            found.append(KeyFacts(key_id, wire.hostname, wire.username, wire.created, key_id == current))
    return sorted(found, key=lambda key: (key.created, key.key_id))


def openings(files: RepositoryFiles, password: bytes) -> Iterator[tuple[str, MasterKey]]:
    """Each key file that opens with this password, and what it opens. Files that are no key files are passed over:
    one that was cut short must not keep out those who hold another key."""
    for key_id, content in list(_contents(files))[:MAX_KEYS]:
        try:
            master = unwrap_key(content, password)
        except RepositoryDamaged:
            continue
        if master is not None:
            yield key_id, master


def key_of(files: RepositoryFiles, master: MasterKey, password: bytes) -> str | None:
    return next((key_id for key_id, opened in openings(files, password) if opened == master), None)


def put_key(files: RepositoryFiles, master: MasterKey, password: bytes) -> str:
    """A new key file, proved by reading it back; its id."""
    if not password:
        raise RequestInvalid("an empty password protects nothing")
    content = wrap_key(
        master,
        password,
        hostname=socket.gethostname(),
        username=user_name(os.getuid()),
        created=SYSTEM.now(),
    )
    key_id = hashlib.sha256(content).hexdigest()
    files.put("keys", key_id, [content], size_bytes=len(content))
    if not _opens(files, key_id, master, password):
        raise RepositoryDamaged("the key file that was just written does not open", where=f"keys/{key_id}")
    return key_id


def add_key(files: RepositoryFiles, master: MasterKey, password: bytes) -> str:
    with locked(files, master):
        if len(list(files.ids("keys"))) >= MAX_KEYS:
            raise RequestInvalid(f"the snapshot repository has {MAX_KEYS} keys already")
        return put_key(files, master, password)


def remove_key(
    files: RepositoryFiles, master: MasterKey, key_id: str, *, current: str, other_password: bytes | None
) -> str:
    """Remove one key file; the id of the one that was proved to stay. Under the exclusive lock: of two who remove at
    the same moment the second sees what the first left."""
    with locked(files, master, exclusive=True) as lock:
        if key_id not in {found.file_id for found in files.ids("keys")}:
            raise NotFound("the snapshot repository has no such key")
        staying = _proved_to_stay(files, master, key_id, current=current, other_password=other_password)
        lock.assert_held()
        files.remove("keys", key_id)
        return staying


def _proved_to_stay(
    files: RepositoryFiles, master: MasterKey, key_id: str, *, current: str, other_password: bytes | None
) -> str:
    if other_password is not None:
        for other, opened in openings(files, other_password):
            if other != key_id and opened == master:
                return other
        raise Denied("the other password opens no other key of this repository", hint="Nothing was removed.")
    if key_id == current:
        raise Conflict(
            "this key is the one in use",
            hint="Show the password of another key that stays, or change the password instead.",
        )
    if not files.exists(files.key("keys", current)):
        raise Conflict(
            "the key in use was removed by somebody else, so this may be the last",
            hint="Open the repository again with a key that it has.",
        )
    return current


def _opens(files: RepositoryFiles, key_id: str, master: MasterKey, password: bytes) -> bool:
    return unwrap_key(files.read_whole(files.key("keys", key_id), max_bytes=MAX_KEY_FILE_BYTES), password) == master


def _contents(files: RepositoryFiles) -> Iterator[tuple[str, bytes]]:
    for found in sorted(files.ids("keys"), key=lambda key: key.file_id):
        try:
            yield found.file_id, files.read_whole(files.key("keys", found.file_id), max_bytes=MAX_KEY_FILE_BYTES)
        except (EntryMissing, RepositoryDamaged):
            continue  # removed since it was listed, or far too large for a key


def _decoded(content: bytes) -> KeyFile | None:
    try:
        return msgspec.json.decode(content, type=KeyFile)
    except ValueError:
        return None
