"""The parsing child: what it may do, and that everything else is refused (D16)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mover.errors import LimitExceeded, RequestInvalid, SandboxFailed, StructureInvalid
from mover.sandbox import Limits, Sandbox, confine, read_answer
from tests.support.leftovers import Leftovers

HOSTILE = "tests.sandbox.hostile"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    limits = Limits(memory_bytes=768 << 20, open_files=600)
    with Sandbox((HOSTILE,), allowed=("tests.sandbox.",), limits=limits, max_children=2) as ready:
        yield ready


def call(sandbox: Sandbox, name: str, *args: object, timeout_s: float = 20.0) -> bytes:
    return sandbox.run(f"{HOSTILE}:{name}", args, timeout_s=timeout_s)


@pytest.mark.slow
def test_arguments_and_bytes_cross(sandbox: Sandbox) -> None:
    """The ordinary case; bytes, numbers and text arrive as they were sent."""
    assert call(sandbox, "echo", 1, "two", b"\x00\xff") == b"(1, 'two', b'\\x00\\xff')"


def test_descriptors_arrive_first_and_are_readable(sandbox: Sandbox, tmp_path: Path) -> None:
    """The child can open no file: descriptors are its only way to a slide."""
    (tmp_path / "slide").write_bytes(b"0123456789")
    descriptor = os.open(tmp_path / "slide", os.O_RDONLY)
    try:
        assert sandbox.run(f"{HOSTILE}:read_from", (3, 4), (descriptor,)) == b"3456"
        os.fstat(descriptor)
    finally:
        os.close(descriptor)


def test_what_was_given_may_be_opened_by_name_and_what_lies_beside_it_may_not(sandbox: Sandbox, tmp_path: Path) -> None:
    """OpenSlide takes no descriptor: with a folder of links it reads the same bytes, and the tier beside them stays
    closed."""
    (tmp_path / "links").mkdir()
    for at, name in enumerate(("one", "two")):
        (tmp_path / name).write_text(name)
        (tmp_path / "links" / f"{at}.svs").symlink_to(f"/proc/self/fd/{100 + at}")
    (tmp_path / "other").write_text("another patient")
    descriptors = tuple(os.open(tmp_path / name, os.O_RDONLY) for name in ("one", "two"))
    try:
        links, args = str(tmp_path / "links"), (100, str(tmp_path / "links"), str(tmp_path / "other"))
        told = sandbox.run(f"{HOSTILE}:read_by_name", args, descriptors, folder=links)
        if sandbox.protection.no_files:
            assert told == b"onetwo and nothing else"
            with pytest.raises(SandboxFailed, match="PermissionError"):
                sandbox.run(f"{HOSTILE}:read_by_name", args, descriptors)
        else:
            assert told.startswith(b"onetwo")
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def test_a_slide_of_hundreds_of_files_comes_in_rounds_and_in_order(sandbox: Sandbox, tmp_path: Path) -> None:
    """A 3DHISTECH slide has a file per 40 MB; the kernel takes 253 descriptors in one message."""
    count = 520
    (tmp_path / "bytes").write_bytes(bytes(index % 251 for index in range(count)))
    descriptors = []
    try:
        for index in range(count):
            descriptor = os.memfd_create("part")
            os.write(descriptor, bytes([index % 251]))
            descriptors.append(descriptor)
        assert sandbox.run(f"{HOSTILE}:first_bytes", (), tuple(descriptors)) == (tmp_path / "bytes").read_bytes()
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def test_large_arguments_and_results_cross(sandbox: Sandbox) -> None:
    """A recipe carries megabytes of literals; sockets carry it in parts."""
    assert len(call(sandbox, "produce", 8 << 20)) == 8 << 20
    assert len(call(sandbox, "echo", bytes(4 << 20))) > 4 << 20


def test_a_refusal_keeps_code_words_and_details(sandbox: Sandbox) -> None:
    """Quarantine shows the reason that the parser gave."""
    with pytest.raises(StructureInvalid) as caught:
        call(sandbox, "refuse")
    assert (caught.value.what, caught.value.where) == ("page 3 loops", "page 3")
    assert caught.value.details == [{"page": 3}]


def test_any_other_exception_tells_its_type_only(sandbox: Sandbox) -> None:
    """Parsers quote what they parsed; a message would carry a name into the log (I2)."""
    with pytest.raises(SandboxFailed) as caught:
        call(sandbox, "leak")
    assert "ValueError" in str(caught.value)
    assert "SMITH" not in f"{caught.value!r} {caught.value} {caught.value.details} {caught.value.__cause__}"


@pytest.mark.parametrize("name", ["crash", "not_bytes"])
def test_a_crash_or_a_wrong_answer_is_a_failure(sandbox: Sandbox, name: str) -> None:
    """A segfault in a codec takes the child, never the daemon."""
    with pytest.raises(SandboxFailed):
        call(sandbox, name)
    assert call(sandbox, "echo") == b"()"


@pytest.mark.parametrize("name", ["hang", "spin"])
@pytest.mark.slow
def test_a_child_that_does_not_end_is_ended(sandbox: Sandbox, name: str) -> None:
    """One bomb costs its timeout, not the batch."""
    started = time.monotonic()
    with pytest.raises(SandboxFailed, match="in time"):
        call(sandbox, name, timeout_s=0.3)
    assert time.monotonic() - started < 50  # it would sleep for a minute


@pytest.mark.slow
def test_a_memory_bomb_stops_at_the_limit(sandbox: Sandbox) -> None:
    """1 MB of deflated DICOM takes over 1 GB (reliability 4.1)."""
    with pytest.raises(SandboxFailed):
        call(sandbox, "take_memory")


def test_no_file_can_be_written(sandbox: Sandbox, tmp_path: Path) -> None:
    """Nothing a parser is made to do leaves a byte behind, not even in our own code."""
    if not sandbox.protection.no_files:
        pytest.skip("this kernel has no Landlock")
    for name, args in (("write_file", (str(tmp_path / "x"),)), ("write_file", ("/tmp/escaped",))):
        with pytest.raises(SandboxFailed, match="PermissionError"):
            call(sandbox, name, *args)
    with pytest.raises(SandboxFailed, match="PermissionError"):
        call(sandbox, "append_to_own_code")
    assert list(tmp_path.iterdir()) == []


def test_no_foreign_file_can_be_read(sandbox: Sandbox, tmp_path: Path) -> None:
    """A hostile slide must not be able to fetch the next patient's slide or the vault's key."""
    if not sandbox.protection.no_files:
        pytest.skip("this kernel has no Landlock")
    (tmp_path / "secret").write_text("secret")
    for path in (str(tmp_path / "secret"), "/etc/passwd", f"/proc/{os.getpid()}/environ"):
        with pytest.raises(SandboxFailed, match="PermissionError"):
            call(sandbox, "read_file", path)
    with pytest.raises(SandboxFailed, match="PermissionError"):
        call(sandbox, "list_folder", str(tmp_path))


def test_no_network(sandbox: Sandbox) -> None:
    """Neither TCP nor UDP, not even to this machine."""
    assert sandbox.protection.no_network
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(SandboxFailed):
            call(sandbox, "connect", server.getsockname()[1])
        server.settimeout(0.05)
        with pytest.raises(TimeoutError):
            server.accept()
    with pytest.raises(SandboxFailed):
        call(sandbox, "send_datagram", 9)


@pytest.mark.parametrize("name", ["run_program", "fork_child"])
def test_no_new_process(sandbox: Sandbox, name: str) -> None:
    """A child that could fork would outlive its timeout."""
    if not sandbox.protection.seccomp:
        pytest.skip("no seccomp filter for this machine")
    with pytest.raises(SandboxFailed, match="PermissionError"):
        call(sandbox, name)


def test_no_signal_to_the_daemon(sandbox: Sandbox) -> None:
    """Same user id, so only the fences keep a child from ending its parent."""
    if not (sandbox.protection.seccomp or sandbox.protection.landlock_abi >= 6):
        pytest.skip("neither seccomp nor Landlock 6")
    with pytest.raises(SandboxFailed, match="PermissionError"):
        call(sandbox, "signal_process", os.getpid())


def test_nothing_of_the_daemon_is_inherited(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """No secret by environment, no open file of another call, no control socket."""
    monkeypatch.setenv("VAULT_KEY", "k")
    assert b"VAULT_KEY" not in call(sandbox, "environment")
    assert len(eval(call(sandbox, "open_descriptors"))) <= 5


def test_a_sparse_memfd_opens_by_path(sandbox: Sandbox) -> None:
    """Verification reads a local sparse skeleton of a slide of any size (D5)."""
    assert call(sandbox, "sparse_memfd", 20 << 30) == b"II*\0" + str(20 << 30).encode()


@pytest.mark.slow
def test_openslide_and_tifffile_read_a_memfd(sandbox: Sandbox) -> None:
    """Lazy imports and shared libraries work behind the fences."""
    assert call(sandbox, "slide_in_memfd") == b"(512, 512) 1"


def test_only_listed_modules_may_be_called(sandbox: Sandbox) -> None:
    """The daemon names functions by text; text must not reach os.system."""
    with pytest.raises(RequestInvalid):
        sandbox.run("os:system", ("true",))
    with pytest.raises(LimitExceeded):
        sandbox.run(f"{HOSTILE}:echo", (), tuple([0] * 700))


@pytest.mark.slow
def test_a_dead_zygote_is_started_again() -> None:
    """An operator's stray kill must not quarantine a batch."""
    with Sandbox((HOSTILE,), allowed=("tests.sandbox.",)) as fresh:
        assert call(fresh, "echo") == b"()"
        zygote = fresh._zygote
        assert zygote is not None
        os.kill(zygote._process.pid, signal.SIGKILL)
        zygote._process.wait()
        assert call(fresh, "echo") == b"()"


@pytest.mark.slow
def test_calls_from_many_threads_get_their_own_answers(sandbox: Sandbox) -> None:
    """One sandbox serves all workers, two children at a time here."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: call(sandbox, "echo", n), range(40)))
    assert answers == [f"({n},)".encode() for n in range(40)]


@pytest.mark.slow
def test_no_descriptor_and_no_process_is_left(sandbox: Sandbox) -> None:
    """R11: back to the base line after failures of every kind."""
    call(sandbox, "echo")
    before = Leftovers()
    for name in ("echo", "leak", "crash", "refuse"):
        for _ in range(5):
            try:
                call(sandbox, name)
            except (SandboxFailed, StructureInvalid):
                continue
    assert before.now() == []
    zygote = sandbox._zygote
    assert zygote is not None
    children = Path(f"/proc/{zygote._process.pid}/task/{zygote._process.pid}/children").read_text()
    assert children == ""


def test_a_closed_sandbox_answers_with_an_error() -> None:
    """Shutting down is no hang."""
    closed = Sandbox((HOSTILE,), allowed=("tests.sandbox.",))
    closed.close()
    with pytest.raises(SandboxFailed, match="closed"):
        call(closed, "echo")


FENCED = """
import socket, threading, resource
from mover.sandbox import confine
confine.no_new_privileges()
{fence}
outcomes = []
for attempt in (lambda: socket.socket(), lambda: socket.create_connection(("127.0.0.1", {port}), 2),
                lambda: open("/etc/hostname"), lambda: open("/proc/self/status")):
    try:
        attempt()
        outcomes.append("done")
    except OSError as error:
        outcomes.append(type(error).__name__)
thread = threading.Thread(target=lambda: outcomes.append("thread"))
thread.start()
thread.join()
print(outcomes)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fence", "expected"),
    [
        ("confine.seccomp()", ["PermissionError", "PermissionError", "done", "done", "thread"]),
        (
            "confine.landlock((), confine.landlock_abi())",
            ["done", "PermissionError", "PermissionError", "done", "thread"],
        ),
    ],
    ids=["seccomp", "landlock"],
)
def test_each_fence_holds_alone(fence: str, expected: list[str]) -> None:
    """Where a kernel or container lacks one of them, the others must not have leaned on it."""
    if confine.landlock_abi() < 4 or not confine.seccomp_known():
        pytest.skip("this kernel has not both fences to try")
    with socket.create_server(("127.0.0.1", 0)) as server:
        script = FENCED.format(fence=fence, port=server.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    assert done.stdout.strip() == str(expected), done.stderr


def test_a_trial_meets_what_every_file_would_meet_first(sandbox: Sandbox) -> None:
    sandbox.trial()
    with Sandbox(("tests.sandbox.killed",)) as filtered, pytest.raises(SandboxFailed, match=r"child \(SIGSYS\) "):
        filtered.trial()
    with Sandbox(("tests.sandbox.not_there",)) as broken, pytest.raises(SandboxFailed, match=r"child \(status 1\) "):
        broken.trial()


def test_a_machine_that_starts_no_process_fails_the_file_and_nothing_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """TasksMax= was reached, or an upgrade took the interpreter away: an OSError would end the daemon."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python3")
    with Sandbox() as none, pytest.raises(SandboxFailed, match=r"child \(No such file or directory\) "):
        none.trial()


def test_an_answer_in_other_words_is_the_files_fault() -> None:
    """A child that a slide took over may send any bytes: the pack waits, the batch goes on."""
    for answer in (b"", b"\xc1", b"\xa3abc", b"\x81\xa1\xff\x01"):
        with pytest.raises(SandboxFailed):
            read_answer(answer, dict[str, int])
