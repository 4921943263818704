"""What every snapshot's row goes through, whatever it holds: written, its files' digests kept, read back, its root."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from blake3 import blake3

from mover import __version__
from mover.catalog.database import Connection
from mover.catalog.queries import load
from mover.errors import IntegrityError
from mover.model.names import path_text
from mover.model.policy import ProtectPolicy
from mover.protect.site import patiently
from mover.randomness import new_id
from mover.repository.facts import CheckResult, SnapshotResult
from mover.repository.repository import Repository

SQL = load(__file__)
VERIFIER = f"mover.protect {__version__}"
# An earlier snapshot of more files is no parent: their digests are held in memory, some 300 bytes each.
EARLIER_FILES_MAX = 500_000


async def insert_snapshot(
    conn: Connection, policy: ProtectPolicy, *, project: str, series: str, repository_id: str, files: int, bytes_: int,
    added: int = 0, run: str | None = None, missing: Sequence[str] = (),
) -> str:  # fmt: skip
    """Its row, `written`; it protects nothing before it is checked. The id."""
    snapshot = new_id("snapshot")
    values = {"id": snapshot, "project": project, "run": run, "series": series, "tier": policy.repository,
              "repository_id": repository_id, "policy": policy.name, "files": files, "bytes": bytes_, "added": added,
              "missing": list(missing)}  # fmt: skip
    await conn.execute(SQL["insert_snapshot"], values)
    return snapshot


def check_fresh(repository: Repository, repository_id: str) -> CheckResult:
    """Blocking. Every blob of it read back cold, opened and hashed. Raises IntegrityError: nothing is protected by a
    snapshot that does not read back."""
    check = patiently(lambda: repository.check(True, repository_id))
    if not check.ok:
        raise IntegrityError(f"{len(check.errors)} objects of a fresh snapshot do not read back", where=repository_id)
    return check


def links_of(repository: Repository, repository_id: str) -> list[tuple[str, int, str]]:
    """Blocking. (path in the snapshot, 0, `link_digest`) of each symlink."""
    entries = repository.ls(repository_id, "/", recursive=True)
    return [(one.path, 0, link_digest(one.target)) for one in entries if one.kind == "symlink"]


def link_digest(target: str) -> str:
    """Symlinks hold no content: their target is what must not change."""
    return path_text(f"link:{target}")


async def insert_artifacts(
    conn: Connection, project: str, snapshot: str, files: Iterable[tuple[str, int, str]]
) -> None:
    """(path as text, size, digest) of each file and link: cleanup, versions and the next snapshot ask for it."""
    async with conn.cursor() as cursor:
        await cursor.executemany(
            SQL["insert_artifact"],
            [
                {"project": project, "snapshot": snapshot, "path": path, "size_bytes": size, "digest": digest}
                for path, size, digest in files
            ],
        )


def root_of(result: SnapshotResult) -> str:
    """One digest over the names, sizes and digests of a snapshot's files."""
    return root_of_files((e.path, e.size_bytes, e.blake3) for e in result.entries)


def root_of_files(files: Iterable[tuple[str, int, str]]) -> str:
    lines = "".join(f"{path}\0{size}\0{digest}\n" for path, size, digest in files)
    return blake3(lines.encode("utf-8", "surrogateescape")).hexdigest()
