"""The command line over the real HTTP face: help everywhere, JSON everywhere, exit statuses, errors for people."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from mover.cli import COMMANDS
from mover.cli import command as top
from mover.errors import Conflict
from tests.cli.conftest import Daemon, Said

Mover = Callable[..., Said]


def leaves() -> Iterator[tuple[str, ...]]:
    for name, (module, _) in COMMANDS.items():
        found = importlib.import_module(module).command
        yield from below((name,), found)


def below(path: tuple[str, ...], found: click.Command) -> Iterator[tuple[str, ...]]:
    if not isinstance(found, click.Group):
        yield path
        return
    for name, inner in found.commands.items():
        yield from below((*path, name), inner)


LEAVES = sorted(leaves())
# these act on this machine or run until they are stopped; the rest ask the daemon
LOCAL = {("watch",), ("check",), ("daemon",), ("demo",), ("init",), ("doctor",), ("policy", "check")}
LOCAL |= {("vault", "rekey"), *(("vault", "keys", name) for name in ("new", "adopt", "rotate"))}
LOCAL |= {("vault", "drill"), ("vault", "restore"), ("units", "write"), ("units", "where")}
LOCAL |= {("support", "bundle")}
LOCAL |= {("db", name) for name in ("status", "backup", "migrate", "restore", "forget", "move", "upgrade")}
LOCAL |= {("tier", "add"), ("tier", "remove")}
LOCAL |= {("deid", name) for name in ("run", "certify", "verify-certificate")}


@pytest.mark.parametrize("path", LEAVES)
def test_every_command_has_help_and_says_what_each_option_is_for(mover: Mover, path: tuple[str, ...]) -> None:
    said = mover(*path, "--help")
    assert said.status == 0 and "Usage: mover" in said.out
    group: click.Command = top
    for name in path:
        assert isinstance(group, click.Group)
        found = group.get_command(click.Context(group), name)
        assert found is not None
        group = found
    assert group.help
    for parameter in group.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, (path, parameter.name)


def test_every_command_prints_json() -> None:
    """What people see in a table, a script must be able to read."""
    without = {("daemon",), ("demo",), ("watch",)}
    for path in LEAVES:
        found: click.Command = importlib.import_module(COMMANDS[path[0]][0]).command
        for name in path[1:]:
            assert isinstance(found, click.Group)
            found = found.commands[name]
        options = {option for parameter in found.params for option in parameter.opts}
        assert "--json" in options or path in without, path


def test_the_lines_of_help_are_the_commands_own_first_lines() -> None:
    """The table exists so that help is quick; it must not say something else."""
    for name, (module, line) in COMMANDS.items():
        help_text = importlib.import_module(module).command.help or ""
        if name not in ("init", "doctor", "daemon", "demo", "deid"):
            assert help_text.splitlines()[0] == line, name


def test_lists_of_commands_say_their_sentences_to_the_end(mover: Mover) -> None:
    """What was cut off was mostly what sets a command apart: "Ask that the bytes of a slide be removed from the..."."""
    groups = {path[:depth] for path in LEAVES for depth in range(1, len(path))}
    cut = [path for path in sorted(groups) if "..." in mover(*path, "--help").out.partition("Commands:")[2]]
    assert len(groups) > 15 and cut == []


@pytest.mark.slow
def test_help_comes_at_once() -> None:
    """People ask for help in a hurry: no catalog, no HTTP, no rich on the way to it."""
    took = []
    for _ in range(3):
        begun = os.times()
        subprocess.run([sys.executable, "-m", "mover", "--help"], check=True, capture_output=True)
        ended = os.times()  # processor time: what else the machine does is not counted
        took.append(ended.children_user + ended.children_system - begun.children_user - begun.children_system)
    loaded = "import sys, mover.cli; print([m for m in ('aiohttp', 'rich', 'psycopg', 'msgspec') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True).stdout.strip() == "[]"
    assert min(took) < 0.3


ASKS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("reload",): (),
    ("status",): (),
    ("tier", "list"): (),
    ("tier", "pace"): ("--minutes", "30"),
    ("tier", "levels"): ("--days", "7"),
    ("tier", "usage"): ("flash", "--folder", "runs"),
    ("tier", "duplicates"): ("flash",),
    ("tier", "cold"): ("flash", "--older", "26w", "--by", "folder"),
    ("tier", "ages"): (),
    ("tag", "list"): (),
    ("tag", "add"): ("look-again", "--where", "gleason >= 7", "--reason", "out of focus"),
    ("tag", "remove"): ("look-again", "--cold", "flash", "--older", "180d"),
    ("tag", "changes"): ("--tag", "look-again"),
    ("tag", "undo"): ("change-1",),
    ("shard", "nodes"): (),
    ("plot", "fill"): ("--tier", "flash", "-o", "fill.svg"),
    ("plot", "pace"): ("--source", "archive", "-o", "pace.png", "--theme", "dark"),
    ("plot", "treemap"): ("--tier", "flash", "--folder", "runs", "-o", "treemap.svg"),
    ("plot", "ages"): ("--tier", "flash", "-o", "ages.svg"),
    ("plot", "distribution"): ("--column", "gleason", "--expression", "gleason >= 7", "-o", "gleason.svg"),
    ("plot", "calendar"): ("--policy", "protect", "-o", "calendar.svg"),
    ("plot", "ledger"): ("record-1", "-o", "ledger.svg"),
    ("plot", "run"): ("run-1", "-o", "run.svg"),
    ("needs",): (),
    ("shard", "list"): ("--subject", "run-1", "--state", "running"),
    ("vault", "dump"): ("--policy", "dump"),
    ("vault", "dumps"): (),
    ("vault", "reread"): ("dump-1",),
    ("scan", "start"): ("archive", "--prefix", "slides"),
    ("scan", "list"): ("--tier", "archive"),
    ("scan", "show"): ("scan-1",),
    ("scan", "findings"): ("scan-1",),
    ("batch", "ready"): ("2026-01", "--expected", "3"),
    ("batch", "list"): ("--after", "batch-1", "--limit", "5"),
    ("batch", "show"): ("batch-1",),
    ("batch", "packs"): ("batch-1", "--state", "quarantined"),
    ("quarantine", "list"): ("--batch", "batch-1"),
    ("quarantine", "show"): ("0123456789abcdef",),
    ("quarantine", "decide"): ("0123456789abcdef", "--action", "retry", "--reason", "sent again by the ward"),
    ("quarantine", "draft"): ("0123456789abcdef", "--column", "ward phone"),
    ("quarantine", "proposals"): ("--open",),
    ("quarantine", "confirm"): ("proposal-1", "--reason", "looked at two of them"),
    ("quarantine", "decline"): ("proposal-1", "--reason", "ask the ward first"),
    ("quarantine", "rules"): ("--standing",),
    ("quarantine", "revoke"): ("rule-1", "--reason", "decided on the wrong day"),
    ("slide", "list"): (
        "--batch", "batch-1", "--family", "aperio-svs", "--state", "withdrawn", "--since", "2026-11-01",
        "--until", "2026-11-02",
    ),
    ("slide", "show"): ("N1",),
    ("slide", "reinstate"): ("N1", "--reason", "it is a maker's name"),
    ("slide", "remove"): ("N1", "--reason", "the label's name is in it"),
    ("slide", "rulings"): ("--open", "--slide", "N1"),
    ("slide", "evidence"): ("N1",),
    ("slide", "thumbnail"): ("N1", "--to", "n1.jpg"),
    ("slide", "levels"): ("N1",),
    ("slide", "tile"): ("N1", "3", "0_0", "--to", "n1-tile.jpg"),
    ("slide", "view"): ("N1", "--to", "n1-view.jpg", "--x", "100"),
    ("records", "add"): ("batch-1", "imagery=a.csv", "cases=b.csv"),
    ("records", "list"): ("--batch", "batch-1", "--after", "records-1"),
    ("records", "show"): ("record-1",),
    ("records", "ledger"): ("record-1",),
    ("cohort", "save"): ("prostate", "gleason >= 7"),
    ("cohort", "list"): (),
    ("cohort", "show"): ("prostate",),
    ("cohort", "columns"): (),
    ("cohort", "count"): ("gleason >= 7",),
    ("cohort", "explain"): ("gleason >= 7",),
    ("cohort", "describe"): ("gleason >= 7", "--column", "gleason"),
    ("cohort", "freeze"): ("prostate",),
    ("cohort", "split"): ("prostate", "--by", "gleason", "--val", "0", "--train", "0.8", "--test", "0.2"),
    ("cohort", "numbers"): ("selection-1",),
    ("run", "request"): ("--cohort", "prostate"),
    ("run", "list"): (),
    ("run", "show"): ("run-1",),
    ("run", "ready"): ("run-1",),
    ("run", "strays"): ("run-1",),
    ("run", "heartbeat"): ("run-1",),
    ("run", "finish"): ("run-1", "--exit", "0", "--env", "CUDA=12"),
    ("run", "cancel"): ("run-1",),
    ("copy",): ("nas:in", "cold:kept", "--where", "age > 90d", "--keep", "symlinks=skip", "--canary", "10"),
    ("move",): ("nas:in", "cold:kept", "--hold", "60"),
    ("transfer", "list"): (),
    ("transfer", "show"): ("transfer-1",),
    ("transfer", "pause"): ("transfer-1",),
    ("transfer", "resume"): ("transfer-1",),
    ("transfer", "abort"): ("transfer-1",),
    ("transfer", "approve"): ("transfer-1",),
    ("transfer", "restore"): ("transfer-1",),
    ("verify",): ("archive:slides", "--repair-from", "mirror", "--no-strangers"),
    ("verification", "list"): (),
    ("verification", "show"): ("verification-1",),
    ("verification", "findings"): ("verification-1",),
    ("verification", "abort"): ("verification-1",),
    ("policy", "plan"): ("old-slides",),
    ("snapshot", "list"): (),
    ("snapshot", "show"): ("snapshot-1",),
    ("snapshot", "files"): ("snapshot-1",),
    ("snapshot", "plan"): (),
    ("snapshot", "check"): (),
    ("snapshot", "simulate"): ("--keep", "last=3,monthly=12", "--keep", "tag=paper"),
    ("snapshot", "hold"): ("snapshot-1", "--reason", "a paper", "--until", "2027-01-01"),
    ("snapshot", "untrash"): ("snapshot-1", "--reason", "a paper"),
    ("snapshot", "tag"): ("snapshot-1", "paper"),
    ("archive", "list"): (),
    ("archive", "keep"): ("archive",),
    ("folder", "list"): (),
    ("folder", "protect"): ("plans",),
    ("protect", "show"): (),
    ("protect", "keep"): ("--plan",),
    ("protect", "prune"): ("--apply", "--policy", "protect"),
    ("protect", "check"): (),
    ("protect", "sample"): (),
    ("protect", "drill"): (),
    ("protect", "copy"): (),
    ("protect", "keys", "list"): ("--policy", "protect", "--second"),
    ("protect", "keys", "add"): ("anns",),
    ("protect", "keys", "remove"): ("abab", "--reason", "she left"),
    ("protect", "rebuild"): (),
    ("protect", "ask"): ("shorten", "--policy", "protect", "--reason", "too many"),
    ("protect", "requests"): (),
    ("protect", "request"): ("shortening-1",),
    ("protect", "approve"): ("shortening-1",),
    ("protect", "withdraw"): ("shortening-1",),
    ("snapshot", "diff"): ("snapshot-1", "snapshot-2"),
    ("restore",): ("--run", "run-1", "--as-of", "2026-01-02", "--to", "here", "--first", "*.pt"),
    ("restores", "list"): (),
    ("restores", "show"): ("restore-1",),
    ("restores", "cancel"): ("restore-1",),
    ("versions",): ("/artifacts/model.pt", "--run", "run-1", "--all"),
    ("alarm", "list"): ("--standing",),
    ("alarm", "test"): ("night",),
    ("audit", "list"): (),
    ("audit", "verify"): (),
    ("audit", "checkpoints"): (),
    ("audit", "restores"): (),
    ("answers",): ("clean", "0123456789ABCDEFG"),
    ("audit", "accept-restore"): ("--reason", "the disk broke"),
    ("audit", "approve-restore"): ("acceptance-1",),
    ("audit", "retirements"): (),
    ("audit", "retire"): ("--before", "2020-01-01", "--reason", "the disk is full"),
    ("audit", "approve-retirement"): ("retirement-1",),
    ("policy", "list"): (),
    ("policy", "show"): ("stage",),
    ("policy", "schema"): (),
    ("policy", "set"): ("stage", __file__, "--reason", "longer leases"),
    ("policy", "remove"): ("stage", "--reason", "no flash any more"),
    ("policy", "versions"): ("stage",),
    ("policy", "diff"): ("stage", "00"),
    ("policy", "pending"): ("--policy", "stage", "--all"),
    ("policy", "request"): ("change-1",),
    ("policy", "approve"): ("change-1",),
    ("policy", "withdraw"): ("change-1",),
    ("token", "make"): ("slurm", "--role", "operator", "--days", "30"),
    ("token", "list"): (),
    ("token", "revoke"): ("token-1",),
    ("account", "add"): ("ann", "--role", "viewer", "--days", "30"),
    ("account", "list"): (),
    ("account", "password"): ("ann",),
    ("account", "grant"): ("ann", "--role", "viewer"),
    ("account", "revoke"): ("ann",),
    ("account", "disable"): ("ann",),
    ("account", "enable"): ("ann",),
    ("account", "sign-out"): ("ann",),
}
OTHERWISE = {
    ("events",),
    ("policy", "edit"),
    ("verification", "report"), ("transfer", "report"), ("run", "manifest"), ("run", "clean"), ("audit", "export"),
    ("audit", "pack"), ("audit", "read"),
    ("run", "events"), ("run", "keep"),
    ("batch", "reveal"), ("records", "found"), ("slide", "grant"), ("slide", "decline"),
    *(("vault", name) for name in ("status", "reveal", "export", "erase", "import")),
}  # fmt: skip


def test_every_command_that_asks_the_daemon_is_tried_below() -> None:
    assert set(ASKS) | LOCAL | OTHERWISE == set(LEAVES)


def test_what_claims_to_be_clean_is_scanned_and_reported(mover: Mover, daemon: Daemon, tmp_path: Path) -> None:
    """`mover deid FOLDER` needs no daemon; `mover deid adopt` asks one."""
    words = ("deid", "adopt", "archive", "--prefix", "old", "--reason", "the honest broker says so")
    said = mover("--url", daemon.url, *words, "--report", str(tmp_path / "report.jsonl"))
    assert said.status == 0 and "1 clean" in said.out, said
    assert json.loads((tmp_path / "report.jsonl").read_text())["verdict"] == "clean"
    assert json.loads(mover("--url", daemon.url, *words, "--json").out)["verdicts"] == {"clean": 1}


@pytest.mark.parametrize("path", sorted(ASKS))
def test_a_command_answers_people_and_scripts(mover: Mover, daemon: Daemon, path: tuple[str, ...]) -> None:
    people = mover("--url", daemon.url, *path, *ASKS[path])
    assert (people.status, people.err) == (0, "") and people.out.strip()
    assert "[/]" not in people.out and "Traceback" not in people.out
    script = mover("--url", daemon.url, *path, *ASKS[path], "--json")
    assert script.status == 0
    json.loads(script.out)


@pytest.mark.parametrize(
    "arguments",
    [
        ("batch", "ready", "2026-01"),
        ("records", "add", "batch-1", "a=b"),
        ("run", "request", "--cohort", "c"),
        ("run", "finish", "run-1"),
        ("run", "clean", "run-1"),
        ("restore", "snapshot-1", "--to", "x"),
        ("copy", "nas:in", "shelf:x", "cold:kept", "--report-offenders"),
        ("move", "nas", "cold"),
        ("policy", "plan", "old-slides"),
        ("policy", "set", "stage", __file__, "--reason", "longer leases", "--plan"),
        ("policy", "remove", "stage", "--reason", "no flash any more", "--plan"),
        ("verify", "archive:slides"),
        ("verify", "--run", "run-1"),
    ],
)
def test_plans_are_shown_with_their_reasons(mover: Mover, daemon: Daemon, arguments: tuple[str, ...]) -> None:
    said = mover("--url", daemon.url, *arguments, *(() if arguments[0] == "policy" else ("--plan",)))
    assert said.status == 0
    assert "Nothing was changed" in said.out and "it was asked for" in said.out


def test_a_refusal_says_what_where_whether_again_and_what_to_do(mover: Mover, daemon: Daemon) -> None:
    said = mover("--url", daemon.url, "run", "clean", "run-1")
    assert said.status == 3 and said.out == ""
    assert "error: 1 artifact is not proved protected (not-protected)" in said.err
    for line in ("where: run-1", "again: not by itself", "to do: Finish the run", "request: ", "- out/model.pt"):
        assert line in said.err


def test_a_refusal_is_json_where_json_was_asked_for(mover: Mover, daemon: Daemon) -> None:
    said = mover("--url", daemon.url, "run", "clean", "run-1", "--json")
    assert said.status == 3
    assert json.loads(said.err)["details"] == [{"path": "out/model.pt"}]


def test_a_batch_that_failed_fails_the_command(mover: Mover, daemon: Daemon) -> None:
    """A shell script stops at it."""
    daemon.rooms.batches.states = ["working", "working", "failed"]  # type: ignore[attr-defined]
    said = mover("--url", daemon.url, "batch", "ready", "2026-01", "--wait")
    assert said.status == 1
    assert "batch-1: working" in said.err and "batch-1: failed" in said.err


def test_a_run_that_could_not_be_protected_ends_the_wait_and_fails_the_command(mover: Mover, daemon: Daemon) -> None:
    """It goes back to ready and says why; a job script must not wait for ever, nor go on to clean."""
    daemon.rooms.runs.states = ["finishing", "ready"]  # type: ignore[attr-defined]
    said = mover("--url", daemon.url, "run", "finish", "run-1", "--wait", "--timeout", "20")
    assert said.status == 1 and "ready" in said.out


def test_a_run_s_events_are_lines_for_people_and_for_scripts(mover: Mover, daemon: Daemon) -> None:
    """A job script follows them with its own tools."""
    people = mover("--url", daemon.url, "run", "events", "run-1")
    assert [line.split()[-1] for line in people.out.splitlines()[::2]] == ["staging", "ready"]
    assert "10 B of 20 B" in people.out
    script = mover("--url", daemon.url, "run", "events", "run-1", "--after", "3", "--json")
    assert [json.loads(line)["state"] for line in script.out.splitlines()] == ["ready", "ready"]


def test_changes_are_lines_of_nouns_and_ids(mover: Mover, daemon: Daemon) -> None:
    """For who wants to know when to look, and for scripts that look."""
    people = mover("--url", daemon.url, "events")
    assert [line.split()[2:] for line in people.out.splitlines()][:2] == [["runs", "run-1"], ["audit"]]
    assert "look at all of it" in people.out.splitlines()[2]
    script = mover("--url", daemon.url, "events", "--after", "3", "--json")
    assert [json.loads(line) for line in script.out.splitlines()] == [{"id": 7, "nouns": {}}, {"id": 8}]


def test_a_lease_of_a_run_that_was_never_ready_is_not_kept(mover: Mover, daemon: Daemon) -> None:
    """A step beside a training that keeps nothing must say so, and not run on as if it did."""

    async def heartbeat(project: str, id: str) -> object:
        raise Conflict("the run is staging; only a ready run has a lease", where=id)

    daemon.rooms.runs.heartbeat = heartbeat  # type: ignore[attr-defined,method-assign,assignment]
    daemon.rooms.runs.states = ["staging"]  # type: ignore[attr-defined]
    said = mover("--url", daemon.url, "run", "keep", "run-1", "--every", "1")
    assert said.status == 1 and "staging" in said.out


def test_a_cleanup_that_came_to_nothing_fails_the_command(mover: Mover, daemon: Daemon) -> None:
    daemon.rooms.runs.states = ["protected"]  # type: ignore[attr-defined]
    daemon.rooms.runs.clean = daemon.rooms.runs.cancel  # type: ignore[attr-defined,method-assign]
    said = mover("--url", daemon.url, "run", "clean", "run-1", "--wait", "--timeout", "20")
    assert said.status == 1 and "protected" in said.out


def test_patience_has_an_exit_status_of_its_own(mover: Mover, daemon: Daemon) -> None:
    said = mover("--url", daemon.url, "batch", "show", "batch-1", "--wait", "--timeout", "0.05")
    assert said.status == 11 and "again: later" in said.err


def test_no_daemon_is_no_traceback(mover: Mover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mover.sdk.transport.FIRST_PAUSE_S", 0.001)
    said = mover("--url", f"unix://{tmp_path}/none", "status")
    assert said.status == 10 and "Is the daemon running?" in said.err and "Traceback" not in said.err


def test_nobody_in_particular_is_asked_which_daemon_is_meant(mover: Mover) -> None:
    said = mover("status")
    assert said.status == 2 and "--url" in said.err


def test_the_manifest_and_the_audit_come_as_they_are(mover: Mover, daemon: Daemon, tmp_path: Path) -> None:
    """They are evidence: not a byte is added."""
    assert mover("--url", daemon.url, "run", "manifest", "run-1").out == '{"format":"mover-manifest","version":1}\n'
    said = mover("--url", daemon.url, "audit", "export", "--to", "chain.jsonl")
    assert said.status == 0
    assert (tmp_path / "chain.jsonl").read_text() == '{"seq":0}\n{"seq":1}\n{"seq":2}\n'
    said = mover("--url", daemon.url, "audit", "export", "--fhir", "--actor", "ann", "--to", "events.ndjson")
    assert said.status == 0 and b'"by":"ann"' in (tmp_path / "events.ndjson").read_bytes()
    refused = mover("--url", daemon.url, "audit", "export", "--actor", "ann", "--to", "half.jsonl")
    assert refused.status == 2 and not (tmp_path / "half.jsonl").exists()
    assert mover("--url", daemon.url, "audit", "pack", "--run", "run-1").status == 0
    assert (tmp_path / "run-1.audit").read_text().startswith("run-1 by ")
    broken = mover("audit", "verify", "run-1.audit", "--html", "run-1.html")
    assert "NOT WHOLE, " in (tmp_path / "run-1.html").read_text()
    assert mover("audit", "verify", "--html", "nothing.html").status == 2
    unread = mover("audit", "read", "run-1.audit", "--subject", "run-1")
    assert unread.status == 5 and "verify run-1.audit says where" in unread.err + unread.out
    assert broken.status == 5 and "not a line of an audit pack" in broken.out and "no line of a pack" in broken.out
    assert "manifest" not in broken.out and " of  at " not in broken.out  # what is not known is not said
    assert "1 record that no signed copy covers yet" in mover("--url", daemon.url, "audit", "verify").out


def test_what_a_look_at_a_tier_did_not_reach_is_said(mover: Mover, daemon: Daemon) -> None:
    """I7: half of a million files is not half of a tier."""
    assert "first million files" in mover("--url", daemon.url, "tier", "cold", "flash").out
    assert "a shorter --older" in mover("--url", daemon.url, "tier", "cold", "flash", "--by", "slide").out
    assert "flash: of the first 2 files that scans saw" in mover("--url", daemon.url, "tier", "ages").out


def test_a_cause_says_what_may_be_typed_and_what_that_does_to_later_packs(mover: Mover, daemon: Daemon) -> None:
    said = mover("--url", daemon.url, "quarantine", "show", "0" * 16).out
    assert "--action exclude  left out; so are later packs, unless you say --once" in said
    assert "1 in 1 batch, 1 B" in said and f"decide {'0' * 16} --action exclude --reason TEXT" in said


def test_a_report_comes_as_it_is_in_the_format_that_was_asked_for(
    mover: Mover, daemon: Daemon, tmp_path: Path
) -> None:
    assert mover("--url", daemon.url, "transfer", "report", "transfer-1").out == "transfer-1 as jsonl\n"
    said = mover("--url", daemon.url, "transfer", "report", "transfer-1", "--format", "csv", "--output", "r.csv")
    assert said.status == 0
    assert (tmp_path / "r.csv").read_text() == "transfer-1 as csv\n"
    assert mover("--url", daemon.url, "verification", "report", "verification-1").out == "verification-1 as jsonl\n"


def test_damage_that_stands_fails_the_command(mover: Mover, daemon: Daemon) -> None:
    """A cron job that verifies must not be green over rotten slides; what was repaired is no failure."""
    daemon.rooms.verifications.states = ["reading", "complete"]  # type: ignore[attr-defined]
    assert mover("--url", daemon.url, "verify", "archive", "--wait").status == 0
    daemon.rooms.verifications.damaged = True  # type: ignore[attr-defined]
    said = mover("--url", daemon.url, "verify", "archive", "--wait")
    assert said.status == 1 and "bit-rot" in said.out


def test_a_verification_is_of_one_thing(mover: Mover) -> None:
    assert "TIER, or --run" in mover("--url", "unix:///none", "verify").err
    assert "TIER, or --run" in mover("--url", "unix:///none", "verify", "archive", "--run", "run-1").err
    assert "staged again" in mover("--url", "unix:///none", "verify", "--run", "r", "--repair-from", "x").err


def test_a_list_of_names_may_hold_any_byte(mover: Mover, daemon: Daemon, tmp_path: Path) -> None:
    """Names on a file system are bytes; a list that lost one would move too little."""
    (tmp_path / "names").write_bytes(b"a/plain.svs\n\xff\xfe.svs\nback\\slash\n")
    said = mover("--url", daemon.url, "copy", "nas:in", "cold", "--list", "names", "--keep", "no-mode")
    assert said.status == 0
    [(_, (_, body, _, _))] = [c for c in daemon.rooms.transfers.calls if c[0] == "request"]  # type: ignore[attr-defined]
    assert body.sources[0].keys == ["a/plain.svs", "\\xff\\xfe.svs", "back\\x5cslash"]
    assert not body.keep.mode and body.keep.mtime


def test_the_socket_of_root_may_not_reveal_names_and_an_operators_token_may(
    mover: Mover, daemon: Daemon, tmp_path: Path
) -> None:
    """Who runs the machine sees no names; the refusal does not even say that there is something to see."""
    asks = ("batch", "reveal", "pack-1", "--purpose", "call the ward")
    assert "not-found" in mover("--url", daemon.url, *asks).err
    (tmp_path / "token").write_text("mvr_operator\n")
    said = mover("--url", daemon.url, "--token-file", "token", *asks)
    assert said.status == 0 and "a name" in said.out
    tables = ("records", "found", "--purpose", "declare the tables")
    assert "not-found" in mover("--url", daemon.url, *tables).err
    said = mover("--url", daemon.url, "--token-file", "token", *tables)
    assert "tables/csv1.csv" in said.out and "mover records add BATCH imagery=PATH" in said.out
    assert "--folder looks closer" in said.out


@pytest.mark.parametrize("verb", ["grant", "decline"])
def test_only_a_custodian_decides_about_a_withdrawn_slide(
    mover: Mover, daemon: Daemon, tmp_path: Path, verb: str
) -> None:
    """The second person of a ruling is somebody who may look at the names."""
    asks = ("slide", verb, "ruling-1", "--reason", "looked at the label")
    assert mover("--url", daemon.url, *asks).status == 3
    (tmp_path / "token").write_text("mvr_custodian\n")
    assert mover("--url", daemon.url, "--token-file", "token", *asks).status == 0


def test_at_the_local_socket_root_says_in_which_project(mover: Mover, daemon: Daemon) -> None:
    said = mover("--url", daemon.url, "--project", "second", "account", "grant", "ann", "--role", "viewer")
    assert said.status == 0
    assert daemon.access.accounts.calls == [("grant", ("second", "ann", "viewer"))]


def test_a_password_is_asked_for_or_made_up_and_never_an_argument(
    mover: Mover, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arguments are everybody's to read, in the list of processes and in the shell's history."""
    made_up = mover("--url", daemon.url, "account", "add", "ann", "--role", "viewer", "--days", "30")
    assert "made up" in made_up.out and "not shown again" in made_up.out + made_up.err
    monkeypatch.setattr("click.termui.hidden_prompt_func", lambda prompt: "four random words")
    asked = mover("--url", daemon.url, "account", "password", "ann", "--ask")
    assert asked.status == 0 and "four random" not in asked.out + asked.err
    [(_, (body,)), (_, (name, given))] = daemon.access.accounts.calls
    assert body.password is None and body.expires_at is not None
    assert (name, given.password) == ("ann", "four random words")


def test_a_wrong_word_is_met_by_usage(mover: Mover) -> None:
    assert "TABLE=PATH" in mover("--url", "unix:///none", "records", "add", "batch-1", "nonsense").err
    assert mover("dance").status == 2


def test_a_policy_is_edited_in_ones_own_editor_and_what_was_not_changed_is_not_sent(
    mover: Mover, daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sent is the digest of what was shown: a colleague's change meanwhile refuses it."""
    asks = ("--url", daemon.url, "policy", "edit", "stage", "--reason", "longer leases")
    calls = daemon.rooms.policies.calls  # type: ignore[attr-defined]
    monkeypatch.setenv("VISUAL", "true")
    assert mover(*asks).status == 0 and calls == []
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\necho '# mine' >> \"$1\"\n")
    editor.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(editor))
    assert "another person: to: another tier" in mover(*asks).out
    assert calls == [("change", ("stage", "kind: stage\n# mine\n", "0" * 64, "longer leases"))]
    assert mover(*asks, "--plan").status == 0 and calls[-1][0] == "plan"
    assert mover("--url", daemon.url, "policy", "diff", "stage", "ff").status == 3
    new = mover("--url", daemon.url, "policy", "set", "stage-two", str(editor), "--reason", "a second one")
    assert new.status == 0 and calls[-1][1][2] is None


def test_policy_files_are_checked_without_a_daemon(mover: Mover, tmp_path: Path) -> None:
    from mover.policy import default_folder

    assert mover("policy", "check", str(default_folder())).status == 0
    assert mover("policy", "check", str(default_folder() / "examples")).status == 0
    (tmp_path / "p.yaml").write_text("kind: stage\nname: stage\nfrom: archive\nto: flash\nlaeyout: flat\n")
    said = mover("policy", "check", "p.yaml")
    assert said.status == 2 and "p.yaml:5:1" in said.err and "did you mean" in said.err
