"""What a job script says and what its owner is told, without a scheduler: tables of cases."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from mover.clock import SystemClock
from mover.errors import (
    Conflict,
    ExpressionInvalid,
    MoverError,
    NotFound,
    RequestInvalid,
    RunRefused,
    ServiceUnreachable,
    SettingsInvalid,
)
from mover.model import wire
from mover.model.ids import make_id, make_number
from mover.schedulers import words
from mover.schedulers.following import patiently, read_token
from mover.schedulers.slurm import Record, Records, _exit_status, _lease_s, _seconds, load, read_list

NUMBER = make_number(bytes(range(10)))
RUN = make_id("run", now_ms=0, entropy=bytes(10))


class MovedClock(SystemClock):
    """Sleeping moves the time and takes none."""

    at_s = 0.0

    def monotonic_s(self) -> float:
        return self.at_s

    async def sleep(self, duration_s: float) -> None:
        self.at_s += duration_s


def test_an_offender_is_told_by_its_number_or_by_its_line_and_never_by_its_text() -> None:
    """Everybody on a cluster reads why a job waits; what is no slide number may be a name (D10)."""
    offenders: list[dict[str, object]] = [
        {"number": NUMBER, "position": 1, "why": "unknown"},
        {"name": "MUSTERMANN ERIKA", "number": "MUSTERMANN ERIKA", "position": 2, "why": "malformed"},
        {"why": "empty"},
    ]
    told = words.told(RunRefused("2 of 3 unusable", where=RUN, details=offenders))
    assert told == f"2 of 3 unusable: line 1 {NUMBER}: unknown; line 2: malformed; the set: empty [{RUN}]"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ExpressionInvalid("no such column:\nsurname = 'MUSTERMANN'\n^", where="character 9"), "[character 9]"),
        (ExpressionInvalid("empty", where="MUSTERMANN"), "expression-invalid"),
        (NotFound("no such cohort", where="MUSTERMANN"), "no such cohort"),
        (RequestInvalid("policy a stages to b, not to MUSTERMANN", where="files"), "not to … [files]"),
        (Conflict("the run is over", where=RUN), f"the run is over [{RUN}]"),
        (SettingsInvalid("cannot be read", where="/etc/mover/a.token"), "cannot be read [/etc/mover/a.token]"),
    ],
)
def test_what_was_typed_is_not_told_again(error: MoverError, told: str) -> None:
    """An expression is refused because it may be a name, and its error shows the line with a caret (D10)."""
    said = words.told(error, said=["a", "x,MUSTERMANN", RUN])
    assert told in said and "MUSTERMANN" not in said
    assert "mover cohort explain" in said or not isinstance(error, ExpressionInvalid)


@pytest.mark.parametrize(
    "said", [b'{"MUSTERMANN": 1}', b'{"layout": "MUSTERMANN"}', b'{"MUSTER`MANN": 1}', b'{"priority": "MUSTERMANN"}']
)
def test_what_does_not_fit_is_told_without_its_words(said: bytes) -> None:
    with pytest.raises(msgspec.DecodeError) as caught:
        msgspec.json.decode(said, type=wire.RunRequest)
    told = words.misfit(caught.value)
    assert "MANN" not in told and ("unknown field" in told or "enum value" in told or "Expected `int`" in told)


def test_what_is_told_is_one_short_line() -> None:
    """Slurm keeps a reason in one field; a line break in it would break its own tools."""
    many = [{"number": NUMBER, "position": at, "why": "unknown"} for at in range(1, 500)]
    told = words.told(RunRefused("a\nb\x1b[2J", details=many))
    assert (
        len(told) <= words.TOLD_MAX
        and told.isprintable()
        and "and 489 more"
        in words.told(RunRefused("x", details=[{"position": at, "why": "w"} for at in range(1, 500)]))
    )


@pytest.mark.parametrize("said", ["cohort", "cohort=", "=a", "cohrt=a"])
def test_a_word_that_nobody_knows_is_refused(said: str) -> None:
    with pytest.raises(RequestInvalid):
        words.pairs([said], known=words.STAGE_IN)


def test_a_word_twice_is_refused() -> None:
    """The last one would win silently, and the job would train on another cohort than its first line says."""
    with pytest.raises(RequestInvalid, match="twice"):
        words.pairs(["cohort=a", "cohort=b"], known=words.STAGE_IN)


def no_list(path: str) -> list[str]:
    raise AssertionError(path)


def test_words_become_a_request_and_numbers_numbers() -> None:
    lines = [
        "cohort=a",
        "priority=3",
        "layout=label",
        "label=diagnosis",
        "project=p",
        "deadline=2026-11-22T18:00:00+01:00",
    ]
    said = words.pairs(lines, known=words.STAGE_IN)
    body = words.run_request(said, read=no_list, lease_s=7200)
    assert (body.cohort, body.priority, body.layout, body.layout_label) == ("a", 3, "label", "diagnosis")
    assert body.deadline == datetime(2026, 11, 22, 17, tzinfo=UTC)
    assert body.lease_s == 7200
    assert words.run_request({**said, "lease_s": "60"}, read=no_list, lease_s=7200).lease_s == 60
    for wrong in ({"priority": "high"}, {"deadline": "2026-11-22T18:00:00"}, {"layout": "MUSTERMANN"}):
        with pytest.raises(RequestInvalid) as caught:
            words.run_request({"cohort": "a", **wrong}, read=no_list, lease_s=None)
        assert "MUSTERMANN" not in caught.value.what


def test_splits_are_cohorts_frozen_lists_and_lists_of_the_user() -> None:
    frozen = make_id("selection", now_ms=0, entropy=bytes(10))
    said = {"splits": f"train={frozen},val=prostate@2,test=@/home/ana/test.txt"}
    body = words.run_request(said, read=lambda path: [path], lease_s=None)
    assert body.splits == {
        "train": wire.SplitSource(selection=frozen), "val": wire.SplitSource(cohort="prostate@2"),
        "test": wire.SplitSource(files=["/home/ana/test.txt"]),
    }  # fmt: skip
    for wrong in ("train", "train=a,train=b", "train=a", "=a,b=c"):
        with pytest.raises(RequestInvalid):
            words.run_request({"splits": wrong}, read=no_list, lease_s=None)


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [("10:00", 600), ("1:00:00", 3600), ("2-00:00:00", 172_800), ("365-00:00:00", 31_536_000), ("UNLIMITED", None)],
)
def test_a_time_limit_is_read_as_squeue_writes_it(limit: str, seconds: int | None) -> None:
    """The lease is the job's time and an hour; read wrongly, a run would expire below its job."""
    assert _seconds(limit) == seconds
    assert _lease_s(seconds) == (None if seconds is None else min(seconds + 3600, 31_536_000))


@pytest.mark.parametrize(("said", "status"), [("0", 0), ("768", 3), ("15", -15), ("3:0", 3), ("0:9", 137), ("", 0)])
def test_an_exit_status_is_read_as_squeue_writes_it(said: str, status: int) -> None:
    assert _exit_status(said) == status


def test_a_list_is_read_only_when_it_is_the_users_own(tmp_path: Path) -> None:
    """SlurmUser may read what the job's user may not; the first lines of it would stand in an error."""
    own = tmp_path / "own"
    own.write_text(f"{NUMBER}\n\n  {NUMBER}\n")
    assert read_list(str(own), uid=os.getuid()) == [NUMBER, NUMBER]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    me = os.getuid()
    for path, uid in ((own, me + 1), (pipe, me), (tmp_path, me), (tmp_path / "absent", me)):
        with pytest.raises(RequestInvalid):
            read_list(str(path), uid=uid)


def test_a_token_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    """It acts for every user of its project's group. Root may hand it to a group of ours: Kubernetes makes 0440 of a
    secret where the pod has an fsGroup, whatever its manifest says."""
    token = tmp_path / "token"
    token.write_text("mvr_x\n")
    token.chmod(0o600)
    assert read_token(token) == "mvr_x"
    ours = os.geteuid() == 0  # the file is root's, of root's group, which is the one we have
    for mode, used in ((0o400, True), (0o440, ours), (0o640, ours), (0o460, False), (0o450, False), (0o444, False)):
        token.chmod(mode)
        if used:
            assert read_token(token) == "mvr_x"
        else:
            with pytest.raises(SettingsInvalid, match="read by others"):
                read_token(token)
    if ours:
        token.chmod(0o440)
        for owner, group in ((0, 4711), (4711, 0)):
            os.chown(token, owner, group)
            with pytest.raises(SettingsInvalid, match="read by others"):
                read_token(token)


def test_each_turn_of_a_job_has_a_record_and_a_key_of_its_own(tmp_path: Path) -> None:
    """Job ids wrap and survive requeues; a run of an earlier turn must never be taken for the present one."""
    records = Records(tmp_path)
    first = Record(7, "100", 0, 1000, "demo", wire.RunRequest(cohort="a"))
    second = Record(7, "200", 1, 1000, "demo", wire.RunRequest(cohort="a"), attempt=2, run="run-2")
    for one in (second, first):
        records.put(one)
    records.begin(7, {"MOVER_RUN_ID": "run-2"})
    assert records.of_job(7) == [first, second] and sorted(records.all(), key=lambda r: r.restarts) == [first, second]
    assert (first.key("hpc"), second.key("hpc")) == ("hpc/7/100/0", "hpc/7/200/1")
    records.forget(first)
    assert (tmp_path / "7.env").read_text() == "MOVER_RUN_ID=run-2\n"
    records.forget(second)
    # slurmctld kills what stages a job that is cancelled, also while it writes
    for name in (".7-100-0.json.4711", ".7.env.4711", ".77-100-0.json.4711"):
        (tmp_path / name).touch()
    records.sweep({77})
    assert [path.name for path in tmp_path.iterdir()] == [".77-100-0.json.4711"]


@pytest.mark.parametrize(
    "text", ["cluster: a/b\nurl: u\ntokens: {p: t}\n", "cluster: a\nurl: u\ntokens: {}\n", "tokens: {p: t}\n"]
)
def test_half_a_configuration_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "slurm.yaml"
    path.write_text(text)
    with pytest.raises(SettingsInvalid):
        load(path)


async def test_a_daemon_that_is_away_is_asked_again_until_patience_is_over() -> None:
    """A restart of the daemon must not fail a job that waited a day; a refusal must not be asked a thousand times."""
    clock = MovedClock()
    asked: list[float] = []

    async def away() -> None:
        asked.append(clock.monotonic_s())
        raise ServiceUnreachable("away")

    with pytest.raises(ServiceUnreachable):
        await patiently(away, limit_s=100, clock=clock)
    assert len(asked) > 5 and asked[-1] <= 100 and max(b - a for a, b in zip(asked, asked[1:], strict=False)) <= 15

    async def refuse() -> None:
        asked.append(-1.0)
        raise RequestInvalid("no")

    with pytest.raises(RequestInvalid):
        await patiently(refuse, limit_s=100, clock=clock)
    assert asked.count(-1.0) == 1
