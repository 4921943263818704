"""Runs one measured piece of work and weighs its whole process tree. A script of its own, started afresh per run.

    python -I -S reaper.py < job.json > report.json

`job`: {"steps": [{"argv": [...]} | {"syncfs": folder}], "env": {...}, "servers": [pid, ...], "output": file}.
A step that ends with another status than 0 ends the work. It is the subreaper of everything it starts, so that
worker processes that outlive their parent are waited for too and their CPU is counted; the clock stops when the
last step has ended. Memory is the proportional share (Pss) summed over the tree, sampled. `servers` are other
processes (an object store, a database) whose CPU is reported apart. Standard library only: it must be light.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time

PR_SET_CHILD_SUBREAPER = 36
SAMPLE_S = 0.05
EARLY_S, EARLY_SAMPLE_S = 0.3, 0.01  # short runs are looked at more often
LINGER_S = 3.0
TAIL_BYTES = 4000


def main() -> None:
    job = json.load(sys.stdin)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    memory = _Memory()
    memory.start()
    servers_before, machine_before = _servers(job["servers"]), _machine_user_s()
    began = time.monotonic()
    failure = ""
    for step in job["steps"]:
        failure = _carry_out(step, job)
        if failure:
            break
    seconds = time.monotonic() - began
    lingering = _reap()
    memory.stop()
    used, own = resource.getrusage(resource.RUSAGE_CHILDREN), resource.getrusage(resource.RUSAGE_SELF)
    servers_s = _servers(job["servers"]) - servers_before
    report = {
        "seconds": seconds,
        "cpu_s": used.ru_utime + used.ru_stime,
        "server_cpu_s": servers_s,
        "others_cpu_s": max(0.0, _machine_user_s() - machine_before - used.ru_utime - own.ru_utime - servers_s),
        "memory_bytes": max(memory.peak_bytes, 0),
        "lingering": lingering,
        "failure": failure,
        "said": _tail(job["output"]),
    }
    json.dump(report, sys.stdout)


def _carry_out(step: dict, job: dict) -> str:
    """One step; "" or what went wrong."""
    if "syncfs" in step:
        return _syncfs(step["syncfs"])
    with open(job["output"], "wb") as output:
        done = subprocess.run(
            step["argv"],
            env={**os.environ, **job["env"]},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if step.get("silent") else output,
            stderr=output,
            check=False,
        )
    if done.returncode:
        return f"{os.path.basename(step['argv'][0])} ended with status {done.returncode}"
    if step.get("says_nothing") and os.path.getsize(job["output"]):
        return f"{os.path.basename(step['argv'][0])} found a difference"
    return ""


def _syncfs(folder: str) -> str:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        failed = ctypes.CDLL(None, use_errno=True).syncfs(descriptor)
        return f"syncfs failed: {os.strerror(ctypes.get_errno())}" if failed else ""
    finally:
        os.close(descriptor)


def _reap() -> int:
    """Wait for whatever outlived the steps; how many had to be ended because they stayed."""
    deadline, killed = time.monotonic() + LINGER_S, set()
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return len(killed)
        if pid:
            continue
        if time.monotonic() > deadline:
            for child in _children(os.getpid()):
                killed.add(child)
                os.kill(child, signal.SIGKILL)
        time.sleep(0.005)


# --- memory and CPU ------------------------------------------------------------------------------------


class _Memory(threading.Thread):
    """The highest sum of Pss over the tree that a sample met; short peaks between two samples stay unseen."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0
        self._ended = threading.Event()

    def run(self) -> None:
        began = time.monotonic()
        while not self._ended.wait(EARLY_SAMPLE_S if time.monotonic() - began < EARLY_S else SAMPLE_S):
            self.peak_bytes = max(self.peak_bytes, sum(_pss(pid) for pid in descendants(os.getpid())))

    def stop(self) -> None:
        self._ended.set()
        self.join()


def descendants(pid: int) -> list[int]:
    """All descendants, without the process itself."""
    found, pending = [], _children(pid)
    while pending:
        one = pending.pop()
        found.append(one)
        pending += _children(one)
    return found


def _children(pid: int) -> list[int]:
    found = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as listed:
                found += [int(child) for child in listed.read().split()]
    except OSError:
        pass  # it ended
    return found


def _pss(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as rolled:
            for line in rolled:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0


def _machine_user_s() -> float:
    """User time of all processes: kernel threads have none, so what is not ours is somebody else's."""
    with open("/proc/stat") as stat:
        user, nice = stat.readline().split()[1:3]
    return (int(user) + int(nice)) / os.sysconf("SC_CLK_TCK")


def _servers(pids: list[int]) -> float:
    """CPU of servers and of their children, those that ended included."""
    return sum(cpu_s(pid) for root in pids for pid in [root, *descendants(root)])


def cpu_s(pid: int) -> float:
    """Of a process and of its children that ended."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def _tail(path: str) -> str:
    try:
        with open(path, "rb") as output:
            return output.read()[-TAIL_BYTES:].decode("utf-8", "replace")
    except OSError:
        return ""


if __name__ == "__main__":
    main()
