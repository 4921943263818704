"""`mover doctor --try TIER`: what a tier does with real bytes, in a scratch folder of its own.

Everything happens below `.mover/try-…`, which no listing shows and nothing else uses. A scratch folder carries a lock
file, held for as long as its trial lives: one left by a kill is known by that from one in use, and the next trial
removes it. On a tier that may only be read nothing is written, and that is shown.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from blake3 import blake3

from mover.cli.probes import Finding, bad, good, make_tier, warn
from mover.clock import monotonic_s
from mover.errors import Conflict, EntryExists, EntryMissing, IntegrityError, MoverError, TierFull
from mover.model.wire import Plan, PlanStep
from mover.randomness import random_bytes

if TYPE_CHECKING:
    from mover.settings import Tier
    from mover.tiers.object import ObjectTier
    from mover.tiers.posix import PosixTier

LARGE_BYTES = 64 << 20  # above the size from which a store gets parts, and what O_DIRECT is for
SMALL_BYTES = 4 << 10
SMALL_FILES = 100
RANGES = 32
RANGE_BYTES = 64 << 10
FILL_STEP_BYTES = 16 << 20
# of what a file system holds, so much stays free whatever is asked: others work there
RESERVE_SHARE = 0.05
# of a tier that may only be read
READ_FILES = 20
READ_BYTES = 64 << 20
LISTED = 1000
LEAST_TOLD_BYTES = 16 << 20  # a rate of less would be one of opening files
LEFTOVERS = 100  # scratch folders looked for in one trial

FOLDER, SCRATCH, LOCK = ".mover", "try-", "lock"
FULL = {errno.ENOSPC, errno.EDQUOT}


def plan_of(tiers: list[Tier], *, fill_bytes: int) -> Plan:
    """What a trial would do, tier by tier."""
    steps = [step for tier in tiers for step in _steps(tier, fill_bytes)]
    counts: dict[str, int] = {}
    for step in steps:
        counts[step.action] = counts.get(step.action, 0) + 1
    return Plan(step="try", counts=counts, bytes=sum(step.bytes for step in steps), steps=steps)


def _steps(tier: Tier, fill_bytes: int) -> list[PlanStep]:
    def step(action: str, reason: str, bytes_: int = 0) -> PlanStep:
        return PlanStep(action=action, subject=tier.name, reason=reason, bytes=bytes_)

    if tier.read_only:
        return [step("read", f"at most {READ_FILES} files, twice; nothing is written", 2 * READ_BYTES)]
    written = LARGE_BYTES + SMALL_FILES * SMALL_BYTES
    steps = [
        step("write", f"one large and {SMALL_FILES} small files below {FOLDER}/{SCRATCH}…", written),
        step("read", "all of it, past every cache, digests compared", written),
    ]
    if fill_bytes and tier.kind == "posix":
        steps.append(step("fill", f"one file; {RESERVE_SHARE:.0%} of the file system stay free", fill_bytes))
    return [*steps, step("remove", "the scratch folder, and those of trials that were killed")]


def tried(tier: Tier, *, fill_bytes: int = 0) -> Iterator[Finding]:
    """Each thing tried is one finding. What the tier itself refuses is a finding, too, and ends the trial there;
    its scratch is removed either way."""
    from mover.tiers.posix import PosixTier

    about = f"try {tier.name}"
    try:
        # what it puts is its own, and goes again where nothing else may be deleted, too
        made = make_tier(msgspec.structs.replace(tier, deletes=True))
        made.check_identity()
        if tier.read_only:
            yield from _reads_only(made, about)
        elif isinstance(made, PosixTier):
            yield from try_folder(made, about, fill_bytes=fill_bytes)
        else:
            yield from try_bucket(made, about)
            if fill_bytes:
                yield good(about, "a bucket has no end to be filled to; its quota is the store's to say")
    except MoverError as error:
        yield bad(about, error.what, error.advice)
    except OSError as error:
        number = errno.errorcode.get(error.errno or 0, "an error")
        yield bad(about, f"the file system answered {number}", "Look at the mount, its server and its rights.")


# --- what both kinds do ----------------------------------------------------------------------------------------


def _content(seed: int, length: int) -> bytes:
    """Bytes that no file system can press together, the same for the same seed."""
    return blake3(b"mover try %d" % seed).digest(length=length)


def _cold_digest(tier: Any, key: str) -> str:
    hasher = blake3()
    for chunk in tier.stream(key, cold=True):
        hasher.update(chunk)
    return hasher.hexdigest()


def _rate(bytes_: int, seconds: float) -> str:
    return f"{bytes_ / max(seconds, 1e-6) / 1e6:.0f} MB/s"


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    began_s = monotonic_s()
    found = call()
    return monotonic_s() - began_s, found


def _large(tier: Any, scratch: str, about: str, *, how: str) -> Finding:
    key, data = f"{scratch}/large", _content(0, LARGE_BYTES)
    wrote_s, _ = _timed(lambda: tier.put(key, [data], size_bytes=len(data)))
    read_s, digest = _timed(lambda: _cold_digest(tier, key))
    if digest != blake3(data).hexdigest():
        return bad(about, "what was read back is not what was written", "Trust no byte of it; check disks and memory.")
    rates = f"written {_rate(len(data), wrote_s)}, read back {_rate(len(data), read_s)}"
    return good(about, f"one large file {how}: {rates}, digests equal")


def _small(tier: Any, scratch: str, about: str) -> Finding:
    keys = [f"{scratch}/small/{number:03}" for number in range(SMALL_FILES)]
    contents = [_content(1 + number, SMALL_BYTES) for number in range(SMALL_FILES)]

    def write() -> None:
        for key, data in zip(keys, contents, strict=True):
            tier.put(key, [data], size_bytes=len(data))

    wrote_s, _ = _timed(write)
    listed = {entry.key for entry in tier.list(f"{scratch}/small")}
    if listed != set(keys):
        return bad(about, f"{len(set(keys) - listed)} of {len(keys)} new files are not listed",
                   "Listings must show what was written at once; use another store or mount.")  # fmt: skip
    read_s, digests = _timed(lambda: [_cold_digest(tier, key) for key in keys])
    if digests != [blake3(data).hexdigest() for data in contents]:
        return bad(about, "a small file reads back otherwise", "Trust no byte of it; check disks and memory.")
    wrote, read = len(keys) / max(wrote_s, 1e-6), len(keys) / max(read_s, 1e-6)
    return good(about, f"{len(keys)} small files, each durable: {wrote:.0f}/s written, {read:.0f}/s read, all listed")


def _not_replaced(tier: Any, scratch: str, about: str) -> Finding:
    """I6 and write-once keys hang on this."""
    key = f"{scratch}/small/000"
    try:
        tier.put(key, [b"another"], size_bytes=7)
    except EntryExists:
        if _cold_digest(tier, key) == blake3(_content(1, SMALL_BYTES)).hexdigest():
            return good(about, "a taken name is refused, and what stands there stays")
    return bad(about, "a file was replaced by another of its name", "Use another store or file system.")


# --- folders ---------------------------------------------------------------------------------------------------


def try_folder(tier: PosixTier, about: str, *, fill_bytes: int = 0) -> Iterator[Finding]:
    from mover.tiers import beneath

    with tier.opened() as root:
        home = beneath.make_folders(root, [FOLDER.encode()])
        try:
            with _scratch_folder(home, tier.name) as (name, folder, removed):
                if removed:
                    yield good(about, f"{removed} scratch folders of killed trials removed")
                yield from _in_folder(tier, f"{FOLDER}/{name}", folder, about, fill_bytes)
            if name in os.listdir(home):
                yield bad(about, "the scratch folder is still there", "Remove it by hand.")
            else:
                yield good(about, "the scratch folder is gone")
        finally:
            os.close(home)


@contextmanager
def _scratch_folder(home: int, tier: str) -> Iterator[tuple[str, int, int]]:
    """Its name, its descriptor, and how many of killed trials were removed before."""
    from mover.tiers import beneath

    removed = 0
    for one in [name for name in sorted(os.listdir(home)) if name.startswith(SCRATCH)][:LEFTOVERS]:
        if _in_use(home, one):
            raise Conflict("another trial of this tier is running", where=tier, hint="Wait until it has ended.")
        beneath.remove_tree(home, one.encode())
        removed += 1
    name = SCRATCH + random_bytes(8).hex()
    os.mkdir(name, 0o700, dir_fd=home)
    folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=home)
    lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield name, folder, removed
    finally:
        os.close(lock)
        os.close(folder)
        beneath.remove_tree(home, name.encode())


def _in_use(home: int, name: str) -> bool:
    """Whether its trial lives: the kernel (or the NFS server) takes a lock from whoever dies."""
    try:
        lock = os.open(f"{name}/{LOCK}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=home)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _in_folder(tier: PosixTier, scratch: str, folder: int, about: str, fill_bytes: int) -> Iterator[Finding]:
    how = "past the cache (O_DIRECT)" if tier.traits.o_direct else "through the cache (no O_DIRECT here)"
    yield _large(tier, scratch, about, how=how)
    yield _small(tier, scratch, about)
    yield _not_replaced(tier, scratch, about)
    yield _shares(tier, folder, about)
    yield _locks(folder, about)
    yield _keeps_rights(folder, about)
    yield _keeps_names(folder, about)
    if fill_bytes:
        yield fill(tier, scratch, about, fill_bytes)


def _shares(tier: PosixTier, folder: int, about: str) -> Finding:
    """D9: run roots share the bytes of the content store."""
    from mover.tiers import beneath

    found = []
    source = os.open("large", os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    target = os.open("shared", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        with suppress(OSError):
            beneath.reflink(source, target)
            if os.fstat(target).st_size == LARGE_BYTES:
                found.append("reflinks")
        with suppress(OSError):
            os.link("large", "linked", src_dir_fd=folder, dst_dir_fd=folder)
            if os.stat("linked", dir_fd=folder).st_ino == os.fstat(source).st_ino:
                found.append("hard links")
    finally:
        os.close(source)
        os.close(target)
    if found:
        return good(about, f"bytes are shared by {' and '.join(found)}")
    if tier.role == "flash":
        return warn(about, "neither reflinks nor hard links: each run is a copy", "Use XFS, Btrfs or ext4.")
    return good(about, "neither reflinks nor hard links; this role needs none")


def _locks(folder: int, about: str) -> Finding:
    again = os.open(LOCK, os.O_RDWR | os.O_CLOEXEC, dir_fd=folder)
    try:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return good(about, "a held lock is refused to others")
    finally:
        os.close(again)
    return warn(about, "a held lock was given twice", "Mount it with locks (nfs: without nolock, local_lock).")


def _keeps_rights(folder: int, about: str) -> Finding:
    """Of run roots the data is made read-only and `out` belongs to whoever asked for the run."""
    owner = (65534, 65534) if os.getuid() == 0 else (os.geteuid(), os.getegid())
    descriptor = os.open("rights", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        attributes = _keeps_attributes(descriptor)
        os.fchmod(descriptor, 0o440)
        if os.fstat(descriptor).st_mode & 0o777 != 0o440:
            return bad(about, "file modes are not kept", "Use a file system, or mount options, that keep modes.")
        _give(descriptor, owner)
        seen = os.fstat(descriptor)
        if (seen.st_uid, seen.st_gid) != owner:
            return warn(about, "owners are not kept", "Mount it without a fixed uid and gid.")
        if attributes:
            return good(about, "modes, owners and extended attributes are kept")
        return good(about, "modes and owners are kept; extended attributes are not (snapshots then hold none)")
    except PermissionError:
        return warn(about, "owners cannot be given (root_squash?)",
                    "Roots of runs belong to the daemon's user then: run as that user.")  # fmt: skip
    finally:
        os.close(descriptor)


def _keeps_attributes(descriptor: int) -> bool:
    with suppress(OSError):
        os.setxattr(descriptor, "user.mover", b"1")
        return os.getxattr(descriptor, "user.mover") == b"1"
    return False


def _give(descriptor: int, owner: tuple[int, int]) -> None:
    """By the one right of root's that the daemon's unit keeps for it (CAP_CHOWN), where root tries as somebody else."""
    user = os.geteuid()
    if os.getuid() == 0:
        os.seteuid(0)
    try:
        os.fchown(descriptor, *owner)
    finally:
        os.seteuid(user)


def _keeps_names(folder: int, about: str) -> Finding:
    """A case-blind file system makes two files of a run one."""
    names = ["Case", "case", "ä" * 100, "n" * 255]
    try:
        for name in names:
            os.close(os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder))
    except FileExistsError:
        return bad(about, "names that differ in case only are one name here", "Use a case-sensitive file system.")
    if set(names) <= set(os.listdir(folder)):
        return good(about, "names keep case, letters of any kind and 255 bytes")
    return bad(about, "names come back otherwise than they were given", "Mount it with UTF-8 names.")


def fill(tier: Any, scratch: str, about: str, fill_bytes: int) -> Finding:
    """Does a full tier say so while it is written, and is it as free as before when the file is gone? Stops by itself
    at the reserve: a quota is met before it, the end of the file system never."""
    from mover.cli.output import size
    from mover.tiers.locking import innermost

    root = innermost(tier).root
    wrote = 0

    def chunks() -> Iterator[bytes]:
        nonlocal wrote
        data = _content(0, FILL_STEP_BYTES)
        while wrote < fill_bytes and _room(root) > FILL_STEP_BYTES:
            part = data[: min(len(data), fill_bytes - wrote)]
            yield part
            wrote += len(part)

    attempt = tier.attempt(f"{scratch}/filling", size_bytes=None)
    try:
        attempt.write(chunks())
        attempt.seal()
        told = f"{size(wrote)} written"
        if wrote < fill_bytes:
            told += f", then the reserve of {RESERVE_SHARE:.0%} was reached"
    except TierFull:
        told = f"after {size(wrote)} it said in time that it is full (a quota)"
    finally:
        attempt.abandon()
    names = [entry.key for entry in tier.list(scratch) if entry.key.endswith("/filling")]
    if names:
        return bad(about, "what filled it is still there", "Remove the scratch folder by hand.")
    return good(about, f"filled: {told}; all of it removed again")


def _room(root: Path) -> int:
    """What may still be written above the reserve."""
    facts = os.statvfs(root)
    return int(facts.f_bavail * facts.f_frsize - RESERVE_SHARE * facts.f_blocks * facts.f_frsize)


# --- buckets ---------------------------------------------------------------------------------------------------


def try_bucket(tier: ObjectTier, about: str) -> Iterator[Finding]:
    traits = tier.traits
    prefix = f"{FOLDER}/{SCRATCH}"
    removed = _empty(tier, FOLDER, lambda key: key.startswith(prefix)) if not traits.object_lock else 0
    if removed:
        yield good(about, f"{removed} objects of killed trials removed")
    scratch = prefix + random_bytes(8).hex()
    if traits.object_lock:
        yield _one_locked(tier, scratch, about)
        return
    try:
        yield _large(tier, scratch, about, how="in parts" if traits.multipart else "in one request")
        yield _small(tier, scratch, about)
        yield _not_replaced(tier, scratch, about)
        yield _ranges(tier, scratch, about)
        yield _spoiled_refused(tier, about)
        if traits.multipart:
            yield _aborts(tier, scratch, about)
        yield good(about, "the bucket keeps versions" if traits.versioning else "the bucket keeps no versions")
    finally:
        _empty(tier, scratch, lambda _: True)
    left = sum(1 for _ in tier.list(scratch))
    yield (
        bad(about, f"{left} scratch objects are still there", "Let these keys delete below .mover/.")
        if left
        else good(about, "the scratch objects are gone, their versions too")
    )


def _empty(tier: ObjectTier, below: str, wanted: Callable[[str], bool]) -> int:
    """With every version, where the bucket keeps any; open uploads of trials, too. No lock says whose they are: of two
    people who try one bucket at once, one is told that its objects are gone."""
    from mover.tiers.locking import freeing

    pruned, removed = freeing(tier), 0
    for entry in list(tier.list(below)):
        if wanted(entry.key):
            with suppress(EntryMissing):
                # what a trial wrote is ours alone, on a tier that keeps everything else
                pruned.tidy(entry.key)
                removed += 1
    if tier.control is not None and tier.traits.multipart:
        cut = len(tier.where.full_key(""))
        for upload in list(tier.control.uploads(tier.where.full_key(f"{FOLDER}/{SCRATCH}"))):
            if wanted(upload.key[cut:]):
                tier.control.abort(upload.key, upload.id)
    return removed


def _one_locked(tier: ObjectTier, scratch: str, about: str) -> Finding:
    """What is put here stays as long as the bucket says: so no more than a few bytes."""
    tier.put(f"{scratch}/one", [b"locked"], size_bytes=6)
    if tier.read(f"{scratch}/one") != b"locked":
        return bad(about, "what was read back is not what was written", "Trust no byte of it.")
    return good(about, "the bucket locks what is put: one object of six bytes stays until then, no more was tried")


def _ranges(tier: ObjectTier, scratch: str, about: str) -> Finding:
    key, data = f"{scratch}/large", _content(0, LARGE_BYTES)
    places = [number * 7_654_321 % (LARGE_BYTES - RANGE_BYTES) for number in range(RANGES)]  # all over it
    took_s, parts = _timed(lambda: [tier.read(key, at, RANGE_BYTES) for at in places])
    if any(part != data[at : at + RANGE_BYTES] for at, part in zip(places, parts, strict=True)):
        return bad(about, "a range is not what stands there", "Use a store that honours Range on GET.")
    return good(about, f"{RANGES} ranges of 64 KiB out of the middle: {RANGES / max(took_s, 1e-6):.0f}/s, all right")


def _spoiled_refused(tier: ObjectTier, about: str) -> Finding:
    if tier.traits.checksum_rejection:
        return good(about, "bytes that do not fit their checksum are refused")
    return warn(about, "bytes that do not fit their checksum were not refused",
                "Mover re-reads what it wrote in any case; a store that checks finds it earlier.")  # fmt: skip


def _aborts(tier: ObjectTier, scratch: str, about: str) -> Finding:
    from mover.tiers.object_wire import crc32_text

    assert tier.control is not None
    key, data = tier.where.full_key(f"{scratch}/upload"), b"0123456789"
    upload = tier.control.create(key)
    tier.control.put_part(key, upload, data, crc32=crc32_text(data))
    tier.control.abort(key, upload)
    if any(one.id == upload for one in tier.control.uploads(key)):
        return warn(about, "an aborted upload is still listed", "Let the bucket's lifecycle end old uploads.")
    return good(about, "an aborted upload leaves nothing")


# --- tiers that may only be read -------------------------------------------------------------------------------


def _reads_only(tier: PosixTier | ObjectTier, about: str) -> Iterator[Finding]:
    before = _seen(tier)
    read, files, began_s = 0, 0, monotonic_s()
    for key, size_bytes, *_ in before:
        if files == READ_FILES or read >= READ_BYTES:
            break
        if size_bytes:
            read, files = read + _read_some(tier, key, min(size_bytes, READ_BYTES - read)), files + 1
    if not files:
        yield warn(about, "there is no file to be read", "Is the source mounted, and filled?")
    else:
        rate = f": {_rate(2 * read, monotonic_s() - began_s)}" if read >= LEAST_TOLD_BYTES else ""
        yield good(about, f"{files} files read twice, the same each time{rate}")
    if _seen(tier) == before:
        yield good(about, f"nothing was written: the root and its first {LISTED} files are as before")
    else:
        yield warn(about, "something changed while it was read", "Mover writes nothing here: somebody works on it.")


def _seen(tier: PosixTier | ObjectTier) -> list[tuple[str, int, int, str]]:
    """The beginning of its listing, as it stands; of a folder its root's times first."""
    from itertools import islice

    found = [(one.key, one.fingerprint) for one in islice((e for e in tier.list() if e.kind == "file"), LISTED)]
    seen = [(key, mark.size_bytes, mark.mtime_ns, mark.mark) for key, mark in found]
    root = getattr(tier, "root", None)
    if root is not None:
        status = os.stat(root)
        seen.append(("", 0, status.st_mtime_ns, f"{status.st_ctime_ns}"))
    return seen


def _read_some(tier: PosixTier | ObjectTier, key: str, length: int) -> int:
    cold = bytearray()
    for chunk in tier.stream(key, cold=True):
        cold += chunk
        if len(cold) >= length:
            break
    if bytes(cold[:length]) != tier.read(key, 0, length):
        raise IntegrityError("a file reads otherwise the second time", where=tier.name)
    return length
