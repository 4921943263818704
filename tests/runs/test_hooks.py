"""One hook, as a real executable: what it is told, what it may not do, and which files are never run."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mover import policy
from mover.errors import PolicyInvalid
from mover.model.policy import CleanPolicy, HookRule
from mover.runs import hooks as module
from mover.runs.hooks import OUTPUT_KEPT_BYTES, HookEnd, run_hook
from tests.support.folders import open_the_way

WORDS = ["before-clean", "run-x", "flash", "/flash/runs/run-x"]
NOBODY = pwd.getpwnam("nobody")
HOUSE = Path(__file__).parents[2]
WAIT_S = 60.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a hook that is root's"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "hooks.d"
    made.mkdir(mode=0o755)
    open_the_way(made)
    return made


def put(folder: Path, text: str, name: str = "drain") -> Path:
    path = folder / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def ran(folder: Path, *, name: str = "drain", timeout_s: int = 60, user: str | None = None) -> HookEnd:
    return run_hook(folder, HookRule(name=name, timeout_s=timeout_s, user=user), WORDS, threading.Event())


def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def is_running(pid_file: Path) -> bool:
    """A zombie has ended; who adopts orphans here may never look at them."""
    try:
        return Path(f"/proc/{pid_file.read_text().strip()}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_hook_is_told_ids_and_nothing_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No word of the daemon's environment, no open file of it, no way to more rights."""
    monkeypatch.setenv("MOVER_SECRET", "mvr_x")
    put(folder, 'echo "$0|$*|$(pwd)|$(umask)"; env | sort; cat; grep NoNewPrivs /proc/self/status')
    end = ran(folder)
    assert (end.state, end.exit_status, end.why) == ("succeeded", 0, "")
    first, *rest = end.output.splitlines()
    assert first.endswith(f"|{' '.join(WORDS)}|/|0077")
    said = "\n".join(rest)
    assert "MOVER" not in said and "mvr_x" not in said and "NoNewPrivs:\t1" in said
    assert end.output_bytes == len(end.output)


def test_a_hook_of_a_user_has_that_users_rights(folder: Path) -> None:
    put(folder, "id -u; id -G; grep CapEff /proc/self/status; touch /of-root")
    end = ran(folder, user="nobody")
    uid, groups, capabilities = end.output.splitlines()[:3]
    assert (int(uid), end.state) == (NOBODY.pw_uid, "failed")
    assert set(map(int, groups.split())) == set(os.getgrouplist("nobody", NOBODY.pw_gid))
    assert int(capabilities.split()[1], 16) == 0


def test_how_a_hook_ended_is_told_in_words(folder: Path) -> None:
    put(folder, "echo it was so >&2; exit 3")
    assert ran(folder) == HookEnd("failed", "ended with status 3", 3, "it was so\n", 10)
    put(folder, "kill -KILL $$")
    assert (ran(folder).why, ran(folder).exit_status) == ("was ended by signal 9", -9)
    put(folder, "x").write_bytes(b"\x7fELF no program")
    assert ran(folder) == HookEnd(
        "failed", "ended with status 126", 126, "the hook cannot be run: Exec format error\n", 42
    )


def test_a_hook_that_does_not_end_is_killed_with_all_it_started(folder: Path, tmp_path: Path) -> None:
    """A mount that hangs must not keep a run's root, and a worker's place, for ever."""
    put(folder, f"sleep 1000 & echo $! > {tmp_path}/child; trap '' TERM; sleep 1000")
    end = ran(folder, timeout_s=3)
    assert (end.state, end.why) == ("timed-out", "did not end within 3 s and was killed")
    until(lambda: not is_running(tmp_path / "child"))


def test_what_a_hook_leaves_behind_neither_holds_us_nor_stays(folder: Path, tmp_path: Path) -> None:
    """Its own end counts, also while a child of it goes on writing."""
    put(folder, f"(while true; do echo more; done) & echo $! > {tmp_path}/child; exit 0")
    end = ran(folder, timeout_s=600)
    assert end.state == "succeeded"
    until(lambda: not is_running(tmp_path / "child"))
    put(folder, "exec >&- 2>&-; sleep 1; exit 5")
    assert ran(folder).exit_status == 5


def test_of_much_output_the_end_is_kept(folder: Path) -> None:
    """A loop in a script must not fill the catalog (I10); why it failed stands at the end. No byte of it is trusted."""
    put(folder, "head -c 3000000 /dev/zero; printf 'caf\\303\\251 \\377 last words'; exit 1")
    end = ran(folder)
    assert end.output_bytes == 3_000_000 + len(b"caf\xc3\xa9 \xff last words")
    assert end.output.endswith("café � last words") and "\0" not in end.output
    assert len(end.output.encode()) <= 3 * OUTPUT_KEPT_BYTES


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda f: (f / "drain").unlink(), "it is not there"),
        (lambda f: (f / "drain").chmod(0o644), "no executable file"),
        (lambda f: (f / "drain").chmod(0o775), "it can be written by others"),
        (lambda f: (f / "drain").chmod(0o757), "it can be written by others"),
        (lambda f: os.chown(f / "drain", NOBODY.pw_uid, 0), "it is not root's"),
        (lambda f: ((f / "drain").rename(f.parent / "x"), (f / "drain").symlink_to(f.parent / "x")), "it is a link"),
        (lambda f: ((f / "drain").unlink(), (f / "drain").mkdir()), "no executable file"),
        (lambda f: ((f / "drain").unlink(), os.mkfifo(f / "drain", 0o755)), "no executable file"),
        (lambda f: f.chmod(0o1777), "its folder can be written by others"),
        (lambda f: os.chown(f, NOBODY.pw_uid, 0), "its folder is not root's"),
        (lambda f: (f.rename(f.parent / "x"), f.symlink_to("x")), "is a link"),
        (lambda f: f.parent.chmod(0o777), "a folder above it can be written by others"),
        (lambda f: os.chown(f.parent, NOBODY.pw_uid, 0), "a folder above it is not root's"),
    ],
)  # fmt: skip
def test_what_others_than_root_could_have_made_is_never_run(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], object], why: str
) -> None:
    """The daemon runs it with rights of its own: whoever can write it, or exchange it, would have them."""
    put(folder, f"touch {tmp_path}/ran")
    assert ran(folder).state == "succeeded"
    (tmp_path / "ran").unlink()
    spoil(folder)
    end = ran(folder)
    assert end.state == "refused" and why in end.why, end
    assert not (tmp_path / "ran").exists()


def test_a_file_that_is_exchanged_after_it_was_judged_is_not_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was judged is open, and is what is run."""
    put(folder, "echo judged")
    start = module._start

    def exchanged(*arguments: object) -> object:
        put(tmp_path, "echo exchanged", name="other").rename(folder / "drain")
        return start(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_start", exchanged)
    assert ran(folder).output == "judged\n"


@pytest.mark.parametrize(("user", "why"), [("root", "names root"), ("nobody-knows", "does not know")])
def test_a_user_that_cannot_be_taken_on_refuses_the_hook(folder: Path, user: str, why: str) -> None:
    put(folder, "true")
    end = ran(folder, user=user)
    assert end.state == "refused" and why in end.why


def test_without_the_right_to_become_its_user_a_hook_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would run with the daemon's own rights instead."""
    put(folder, "true")
    monkeypatch.setattr(module, "can_become_others", lambda: False)
    assert "CAP_SETUID" in ran(folder, user="nobody").why


def test_a_hook_dies_with_a_daemon_that_is_killed(folder: Path, tmp_path: Path) -> None:
    """It is run again by the next one: two of them side by side would be worse than twice in turn."""
    put(folder, f"echo $$ > {tmp_path}/pid; exec sleep 1000")
    program = (
        "import threading, pathlib; from mover.runs.hooks import run_hook; from mover.model.policy import HookRule; "
        f"run_hook(pathlib.Path({str(folder)!r}), HookRule(name='drain'), ['x'], threading.Event())"
    )
    daemon = subprocess.Popen([sys.executable, "-c", program], cwd=HOUSE, env={**os.environ, "PYTHONPATH": str(HOUSE)})
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"))
    assert is_running(tmp_path / "pid")
    daemon.send_signal(signal.SIGKILL)
    daemon.wait()
    until(lambda: not is_running(tmp_path / "pid"))


# --- as a policy names them ---------------------------------------------------------------------------------


def test_the_example_that_ships_is_a_policy() -> None:
    [clean] = [one.policy for one in policy.load_files([HOUSE / "policies/examples/clean-hooks.yaml"]).all()]
    assert isinstance(clean, CleanPolicy)
    assert [rule.name for rule in (*clean.before_clean, *clean.after_clean)] == ["drop-caches", "tell-lab"]


@pytest.mark.parametrize(
    "rule",
    ["name: ../sh", "name: /bin/sh", "name: sh -c x", "name: a.sh", "name: x, timeout_s: 0", "name: x, timeout_s: 301",
     "name: x, user: 0", "name: x, command: rm"],
)  # fmt: skip
def test_a_policy_holds_no_command_and_no_path(tmp_path: Path, rule: str) -> None:
    """Whoever may write policies must not be able to run anything that root did not put there (D22)."""
    (tmp_path / "c.yaml").write_text(f"kind: clean\nname: clean\nfrom: flash\nbefore_clean:\n  - {{{rule}}}\n")
    with pytest.raises(PolicyInvalid) as caught:
        policy.load_policies(tmp_path)
    assert "c.yaml:5:" in caught.value.where


def test_a_hook_that_stands_twice_in_a_chain_is_refused(tmp_path: Path) -> None:
    """What succeeded is not run again: the second would never be."""
    (tmp_path / "c.yaml").write_text("kind: clean\nname: clean\nfrom: flash\nafter_clean: [{name: x}, {name: x}]\n")
    with pytest.raises(PolicyInvalid, match="the hook x stands twice"):
        policy.load_policies(tmp_path)
