"""What NFS does to calls that a local file system answers plainly: lost answers, stale handles, late errors.

Here single calls are made to fail; `tests/nfs` runs the same code on a real NFSv4.2 mount in a virtual machine.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mover.errors import ChangedWhileReading, EntryExists, TierDenied, TierError, TierFull, TierUnavailable
from mover.tiers import beneath, identity, mounts
from mover.tiers.posix import PosixTier


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "tier"
    made.mkdir()
    identity.establish(made, name="flash", zone="deidentified")
    return made


@pytest.fixture
def tier(root: Path) -> PosixTier:
    return PosixTier("flash", "deidentified", root)


def names(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()} - {".mover"}


def failing(
    honest: Callable[..., object], number: int, *, after: bool = False, times: int = 1
) -> Callable[..., object]:
    """The call fails `times` times, before anything happened or after it did: an answer that was lost."""
    left = times

    def call(*args: object, **kept: object) -> object:
        nonlocal left
        if left == 0:
            return honest(*args, **kept)
        left -= 1
        if after:
            honest(*args, **kept)
        raise OSError(number, os.strerror(number))

    return call


# --- publishing by link ----------------------------------------------------------------------------------


@pytest.fixture
def linking(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on NFS, there is no rename without replacing."""

    def unsupported(*_: object) -> None:
        raise OSError(errno.EINVAL, "invalid argument")

    monkeypatch.setattr(beneath, "rename_noreplace_only", unsupported)


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EIO, errno.ETIMEDOUT, errno.ESTALE])
def test_a_link_whose_answer_was_lost_is_a_publication(
    tier: PosixTier, root: Path, linking: None, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The repeated request finds the name taken, by the first one. The temporary's link count tells the truth."""
    monkeypatch.setattr(os, "link", failing(os.link, number, after=True))
    tier.put("name", [b"mine"])
    assert (root / "name").read_bytes() == b"mine"
    assert names(root) == {"name"} and (root / "name").stat().st_nlink == 1


def test_a_name_somebody_else_took_meanwhile_stays_theirs(tier: PosixTier, root: Path, linking: None) -> None:
    """R8: an equal name is not an equal file."""
    attempt = tier.attempt("name", size_bytes=4)
    attempt.write([b"mine"])
    attempt.seal()
    (root / "name").write_bytes(b"theirs")
    with pytest.raises(EntryExists):
        attempt.publish()
    attempt.abandon()
    assert (root / "name").read_bytes() == b"theirs" and names(root) == {"name"}


def test_a_link_that_did_not_happen_stays_an_error(
    tier: PosixTier, root: Path, linking: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown is looked up, never assumed to be well."""
    monkeypatch.setattr(os, "link", failing(os.link, errno.EIO))
    with pytest.raises(TierError, match="publishing failed: EIO"):
        tier.put("name", [b"mine"])
    assert names(root) == set()


def test_a_second_name_of_our_file_elsewhere_is_no_publication(
    tier: PosixTier, root: Path, linking: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two links are not enough: one of them has to be the name."""
    attempt = tier.attempt("name", size_bytes=4)
    attempt.write([b"mine"])
    attempt.seal()
    os.link(root / attempt.temporary, root / "elsewhere")
    monkeypatch.setattr(os, "link", failing(os.link, errno.EIO))
    with pytest.raises(TierError, match="publishing failed: EIO"):
        attempt.publish()
    attempt.abandon()
    assert names(root) == {"elsewhere"}


def test_a_temporary_name_that_stays_is_left_to_the_sweep(
    tier: PosixTier, root: Path, linking: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file stands, whole and durable, under its final name: failing now would be a lie the other way round."""
    monkeypatch.setattr(os, "unlink", failing(os.unlink, errno.EIO))
    tier.put("name", [b"mine"])
    assert len(names(root)) == 2
    assert tier.sweep_temporaries(older_than_s=0, now_s=2**40) == 1
    assert names(root) == {"name"} and (root / "name").read_bytes() == b"mine"


@pytest.mark.parametrize("number", [errno.EIO, errno.EEXIST])
def test_a_rename_whose_answer_was_lost_is_a_publication(
    tier: PosixTier, root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Case 22: it took effect and said EIO."""
    monkeypatch.setattr(beneath, "rename_noreplace_only", failing(beneath.rename_noreplace_only, number, after=True))
    tier.put("name", [b"mine"])
    assert (root / "name").read_bytes() == b"mine" and names(root) == {"name"}


def test_publishing_what_a_killed_link_left_under_both_names(tier: PosixTier, root: Path) -> None:
    """The crash between link and unlink, and the attempt taken up again: one file, one name."""
    attempt = tier.attempt("name", size_bytes=4)
    attempt.write([b"mine"])
    attempt.seal()
    os.link(root / attempt.temporary, root / "name")
    attempt.publish()
    assert names(root) == {"name"} and (root / "name").stat().st_nlink == 1


# --- stale handles ---------------------------------------------------------------------------------------


def test_a_stale_folder_or_root_is_opened_anew(tier: PosixTier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody renamed or remade a folder on the server: its name is as good as ever."""
    tier.put("a/one", [b"1"])
    stale = 0

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def once_stale(*args: object, **kept: object) -> object:
            nonlocal stale
            stale += 1
            if stale % 2:
                raise OSError(errno.ESTALE, "stale file handle")
            return call(*args, **kept)

        return once_stale

    for name in ("open_file", "stat_beneath", "open_folder"):
        monkeypatch.setattr(beneath, name, counted(getattr(beneath, name)))
    assert tier.read("a/one") == b"1"
    assert tier.stat("a/one").fingerprint.size_bytes == 1
    assert [entry.key for entry in tier.list("a")] == ["a/one"]
    tier.remove("a/one")
    assert stale >= 8


def test_a_handle_that_stays_stale_ends_in_an_error(tier: PosixTier, monkeypatch: pytest.MonkeyPatch) -> None:
    """R10: bounded."""
    calls = []

    def stale(*args: object) -> None:
        calls.append(args)
        raise OSError(errno.ESTALE, "stale file handle")

    monkeypatch.setattr(beneath, "stat_beneath", stale)
    with pytest.raises(TierUnavailable, match="ESTALE"):
        tier.stat("a")
    assert len(calls) == beneath.STALE_TRIES


def test_a_half_read_file_is_read_on_after_its_handle_went_stale(
    tier: PosixTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the same descriptor number, for whoever else holds it."""
    tier.put("slide", [bytes(range(200))])
    with tier.open("slide") as source:
        number = source.fileno()
        assert source.read(0, 100) == bytes(range(100))
        monkeypatch.setattr(os, "pread", failing(os.pread, errno.ESTALE))
        assert source.read(100, 100) == bytes(range(100, 200))
        assert source.fileno() == number
        monkeypatch.setattr(os, "fstat", failing(os.fstat, errno.ESTALE))
        assert source.fingerprint().size_bytes == 200


def test_another_file_at_the_name_is_not_read_on(tier: PosixTier, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of one slide and half of another would be a slide nobody scanned."""
    tier.put("slide", [bytes(200)])
    with tier.open("slide") as source:
        source.read(0, 100)
        (root / "slide").unlink()
        (root / "slide").write_bytes(bytes(200))
        monkeypatch.setattr(os, "pread", failing(os.pread, errno.ESTALE))
        with pytest.raises(ChangedWhileReading):
            source.read(100, 100)


# --- errors that come late -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "close"])
def test_a_full_server_shows_at_sync_or_close_and_nothing_is_published(
    tier: PosixTier, root: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """Each write was accepted; the server had the last word."""
    attempt = tier.attempt("name", size_bytes=4)
    attempt.write([b"mine"])
    if call == "close":
        attempt.seal()
    monkeypatch.setattr(os, call, failing(getattr(os, call), number, after=True))
    with pytest.raises(TierFull):
        attempt.seal() if call == "fsync" else attempt.publish()
    monkeypatch.undo()
    attempt.abandon()
    assert names(root) == set()


def test_what_failed_to_sync_can_be_neither_synced_again_nor_published(
    tier: PosixTier, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second sync would say yes: the kernel has forgotten the pages it could not write."""
    attempt = tier.attempt("name", size_bytes=4)
    attempt.write([b"mine"])
    monkeypatch.setattr(os, "fsync", failing(os.fsync, errno.EIO))
    with pytest.raises(TierError, match="EIO"):
        attempt.seal()
    for again in (attempt.seal, attempt.publish):
        with pytest.raises(TierError, match="synced"):
            again()
    attempt.abandon()
    assert names(root) == set()


# --- who may ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_a_file_that_may_not_be_read_is_named_as_denied() -> None:
    """root_squash makes root a stranger: a slide it may not read is denied, never missing and never empty."""
    with tempfile.TemporaryDirectory() as made:  # pytest's own folders are closed to other users
        root = Path(made)
        root.chmod(0o755)
        identity.establish(root, name="flash", zone="deidentified")
        tier = PosixTier("flash", "deidentified", root)
        tier.put("folder/slide", [b"x"])
        (root / "folder/slide").chmod(0o600)
        os.seteuid(64_001)
        try:
            tier.check_identity()
            assert [entry.key for entry in tier.list()] == ["folder/slide"]
            with pytest.raises(TierDenied, match="EACCES"):
                tier.read("folder/slide")
            with pytest.raises(TierDenied):
                tier.put("folder/new", [b"x"])
        finally:
            os.seteuid(0)


def test_the_identity_may_be_read_by_every_daemon_that_shares_the_tier(tmp_path: Path) -> None:
    """The daemon that made it may run under a strict umask and another user than the next one."""
    before = os.umask(0o077)
    try:
        identity.establish(tmp_path, name="flash", zone="deidentified")
    finally:
        os.umask(before)
    assert (tmp_path / ".mover/tier.json").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / ".mover").stat().st_mode & 0o111 == 0o111


# --- what it stands on -----------------------------------------------------------------------------------

TABLE = """\
25 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
40 25 0:50 / /flash rw,relatime shared:1 - nfs4 nas:/flash rw,vers=4.2,hard,acdirmax=5,acregmax=2,proto=tcp
41 25 0:51 / /flash/now rw - nfs nas:/now rw,vers=3,hard
42 25 0:52 / /flash/never rw - nfs4 nas:/never rw,vers=4.2,soft,noac,acregmin=0
43 25 0:53 / /win\\040dows rw - cifs //nas/x rw,actimeo=3
44 25 0:54 / /fuse rw - fuse.sshfs user@host: rw
"""


@pytest.mark.parametrize(
    ("path", "filesystem", "network", "cache_s", "soft"),
    [
        ("/flash/a/b", "nfs4", True, 5, False),
        ("/flash/now", "nfs", True, 60, False),
        ("/flash/never/x", "nfs4", True, 0, True),
        ("/flashes", "ext4", False, 0, False),
        ("/win dows/x", "cifs", True, 3, False),
        ("/fuse", "fuse.sshfs", True, 0, False),
    ],
)
def test_what_a_folder_stands_on_is_read_from_the_mount_table(
    path: str, filesystem: str, network: bool, cache_s: float, soft: bool
) -> None:
    """Without touching the folder: a mount whose server is gone answers nothing."""
    lines = [mounts.parsed(line) for line in TABLE.splitlines()]
    found = mounts.mount_of(path, mounts=lines)
    assert (found.filesystem, found.network, found.attribute_cache_s, found.soft) == (
        filesystem, network, cache_s, soft,
    )  # fmt: skip


def test_a_rename_that_only_refuses_is_no_trait(tier: PosixTier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found on NFS: a taken name is refused by the kernel itself, a free one then by the file system."""
    honest = beneath.rename_noreplace_only

    def as_on_nfs(folder: int, source: bytes, target: bytes) -> None:
        if os.access(target, os.F_OK, dir_fd=folder):
            honest(folder, source, target)
        raise OSError(errno.EINVAL, "invalid argument")

    monkeypatch.setattr(beneath, "rename_noreplace_only", as_on_nfs)
    assert not tier.traits.rename_noreplace and tier.traits.hard_link
    assert not list((tier.root / ".mover").glob("probe-*"))


def test_a_probe_says_what_the_tier_stands_on(tier: PosixTier, root: Path) -> None:
    """Policies and the engine ask the traits, never the path."""
    mount = mounts.mount_of_device(root.stat().st_dev)
    assert (tier.traits.filesystem, tier.traits.network) == (mount.filesystem, mount.network)
    assert tier.traits.syncfs is not mount.network
    source = PosixTier("intake", "identified", root, read_only=True, role="source")
    assert source.traits.filesystem == mount.filesystem and not source.traits.hard_link
