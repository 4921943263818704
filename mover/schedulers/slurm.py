"""`mover-slurm`: what Slurm's burst_buffer.lua calls, one verb for each phase of a job.

The Lua script reads the `#BB_LUA` lines and hands them on as words; it is run by slurmctld, as SlurmUser. Here the
job is looked up by Slurm's own word (user, submit time, restarts), the run is asked for in that user's name, and a
small record per job says which run is whose, written before the daemon hears of it: whatever is killed in between
is found again by `keep`, which a timer calls, or at the latest by the run's own lease.

Each verb ends by printing a line that is `ok` or begins with `error: `: Lua 5.1 cannot tell a pipe's exit status.
Nothing here ever drains a node: no verb runs on one, and a daemon that is away is waited for while the job is
still pending or its nodes are free again.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import Struct

from mover import policy as yaml_reader
from mover.errors import Conflict, MoverError, NotFound, RequestInvalid, ServiceUnreachable, SettingsInvalid
from mover.model import wire
from mover.schedulers import words
from mover.schedulers.following import ENDED, PROTECTED, Following, patiently, read_token
from mover.sdk import Client

# slurmctld ends `data_in` and `data_out` by its own StageInTimeout and StageOutTimeout: at most a day
STAGE_LIMIT_S = 86_400.0
# below OtherTimeout (300 s by default), and short where nodes are held
END_LIMIT_S = 240.0
CHECK_LIMIT_S = 20.0
# of a job that ends at its time limit: so long its run waits for `data_out`
LEASE_MARGIN_S = 3_600
LEASE_LIMITS_S = (60, 31_536_000)
LIST_LIMIT_BYTES = 32 << 20
RECORDS_MAX = 100_000
SLURM_ANSWERS_S, SLURM_LIMIT_S = 60.0, 300.0


class SlurmFile(Struct, frozen=True, forbid_unknown_fields=True):
    """/etc/mover/slurm.yaml, readable by SlurmUser alone like the token files it names."""

    cluster: str
    url: str
    tokens: dict[str, str]  # project -> file with the secret of a scheduler's token
    state_dir: str = "/var/lib/mover-slurm"
    ca_file: str | None = None
    squeue: str = "squeue"


class Job(Struct, frozen=True):
    """A job in Slurm's own words."""

    id: int
    uid: int
    submitted: str  # seconds since 1970
    restarts: int
    limit_s: int | None
    exit_status: int


class Record(Struct, frozen=True):
    """Which run stands for a job. Written before the daemon is asked; `run` is empty until it answered."""

    job: int
    submitted: str
    restarts: int
    uid: int
    project: str
    body: wire.RunRequest
    attempt: int = 1
    run: str = ""
    over: bool = False
    left: bool = False  # it was given up and could not be protected: what is left of it is its lease's

    def key(self, cluster: str) -> str:
        """Job ids wrap and survive requeues."""
        return f"{cluster}/{self.job}/{self.submitted}/{self.restarts}"


class Records:
    """SlurmUser's own folder: `<job>-<submitted>-<restarts>.json`, and `<job>.env` for a job that may begin."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, record: Record) -> None:
        self._write(self._path(record), msgspec.json.encode(record))

    def of(self, job: Job) -> Record | None:
        path = self._folder / f"{job.id}-{job.submitted}-{job.restarts}.json"
        return self._read(path) if path.exists() else None

    def of_job(self, job: int) -> list[Record]:
        """Oldest first; the last one is the job's present turn."""
        found = [self._read(path) for path in self._folder.glob(f"{job}-*.json")]
        return sorted(found, key=lambda one: (int(one.submitted), one.restarts))

    def all(self) -> Iterator[Record]:
        for count, path in enumerate(sorted(self._folder.glob("*-*.json"))):
            if count >= RECORDS_MAX:
                raise RequestInvalid(f"more than {RECORDS_MAX} records of jobs", where=str(self._folder))
            yield self._read(path)

    def begin(self, job: int, environment: dict[str, str]) -> None:
        """What `slurm_bb_paths` copies into the job's environment, without a word to anybody."""
        lines = "".join(f"{name}={value}\n" for name, value in environment.items())
        self._write(self._folder / f"{job}.env", lines.encode())

    def forget(self, record: Record) -> None:
        self._path(record).unlink(missing_ok=True)
        if not self.of_job(record.job):
            (self._folder / f"{record.job}.env").unlink(missing_ok=True)

    def sweep(self, living: set[int]) -> None:
        """What writes that were killed have left, of any job but these: slurmctld kills what stages a job that is
        cancelled."""
        for path in self._folder.glob(".[0-9]*"):
            if int(re.split("[-.]", path.name)[1]) not in living:
                path.unlink(missing_ok=True)

    def pools(self, tiers: list[wire.Tier]) -> None:
        """The flash tiers as Slurm's pools, in GiB: Slurm 22.05 reads no quantity beyond 32 bits."""
        pools = [
            {"id": tier.name, "quantity": tier.capacity_bytes >> 30, "granularity": 1}
            for tier in tiers
            if tier.role == "flash" and tier.capacity_bytes
        ]
        self._write(self._folder / "pools.json", msgspec.json.encode({"pools": pools}))

    def _path(self, record: Record) -> Path:
        return self._folder / f"{record.job}-{record.submitted}-{record.restarts}.json"

    def _read(self, path: Path) -> Record:
        return msgspec.json.decode(path.read_bytes(), type=Record)

    def _write(self, path: Path, data: bytes) -> None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


class Slurm(Struct, frozen=True):
    """What slurmctld answers, asked by the one command whose fields are numbers: no job's name can be taken for
    one of them."""

    command: str
    fields: str = "JobID:20,UserID:20,SubmitTime:20,RestartCnt:20,TimeLimit:20,exit_code:20"

    def job(self, job: int) -> Job:
        for line in self._ask("--jobs", str(job), "-O", self.fields):
            id, uid, submitted, restarts, limit, exit_code = line.split()
            if int(id) == job:
                return Job(job, int(uid), submitted, int(restarts), _seconds(limit), _exit_status(exit_code))
        raise NotFound("Slurm knows no such job", where=str(job))

    def listed(self) -> set[int]:
        """Every job that is not over: pending, running, or still staged out."""
        return {int(line) for line in self._ask("-r", "-O", "JobID:20")}

    def _ask(self, *arguments: str) -> list[str]:
        # times as seconds: a local time stands twice in an autumn's night
        command = ["env", "SLURM_TIME_FORMAT=%s", self.command, "--noheader", "--all", *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SLURM_ANSWERS_S, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise ServiceUnreachable("slurmctld does not answer squeue", where=self.command) from error
        return [line for line in done.stdout.splitlines() if line.strip()]


def _seconds(limit: str) -> int | None:
    """`[days-]hours:minutes:seconds` as squeue writes it; None without a limit."""
    days, dash, clock = limit.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in parts) or (dash and not days.isdigit()):
        return None
    total = 0
    for part in parts:
        total = total * 60 + int(part)
    return total + 86_400 * int(days or 0)


def _exit_status(said: str) -> int:
    """`status:signal`, or a wait status as one number."""
    status, colon, signal = said.partition(":")
    if colon:
        return int(status) or (128 + int(signal) if int(signal) else 0)
    return os.waitstatus_to_exitcode(int(status)) if said.isdigit() else 0


def read_list(path: str, *, uid: int) -> list[str]:
    """A list of numbers that a user named. We may be able to read what its user may not, so it must be the user's
    own: no link, pipe or hard link to another's file gets through an owner that is looked at by descriptor."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise RequestInvalid("the list cannot be read by Slurm's user", where="files") from error
    try:
        facts = os.fstat(descriptor)
        if facts.st_uid != uid or not stat.S_ISREG(facts.st_mode):
            raise RequestInvalid("the list is no file of the job's user", where="files")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(LIST_LIMIT_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > LIST_LIMIT_BYTES:
        raise RequestInvalid(f"the list is longer than {LIST_LIMIT_BYTES} bytes", where="files")
    try:
        return [line.strip() for line in data.decode("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise RequestInvalid("the list is not UTF-8", where="files") from None


class Hook:
    """The verbs. Each is safe to repeat, and to be killed in."""

    def __init__(self, settings: SlurmFile) -> None:
        self._settings = settings
        self._slurm = Slurm(settings.squeue)
        self._records = Records(Path(settings.state_dir))

    # --- while the job is pending ---------------------------------------------------------------------------

    async def stage(self, job_id: int, said: list[str]) -> None:
        """`data_in`: the job's run, ready. The job stays pending meanwhile, however long it takes."""
        job = await self._job(job_id)
        record = self._begin(job, words.pairs(said, known=words.STAGE_IN))
        async with self._client(record.project, acts_for=job.uid) as client:
            following = Following(client, limit_s=STAGE_LIMIT_S)
            record = await self._request(following, record)
            run = await following.until_ready(record.run)
        if run.state != "ready" or run.root is None:
            self._records.put(msgspec.structs.replace(record, over=True))
            raise RequestInvalid(words.told_of(run))
        self._records.begin(job_id, _environment(run))

    def _begin(self, job: Job, said: dict[str, str]) -> Record:
        """The record of this turn: a new one, the one of an attempt that was killed, or that of the next attempt."""
        earlier = self._records.of(job)
        if earlier is not None and not earlier.over:
            return earlier
        project = self._project(said)
        body = words.run_request(said, read=lambda path: read_list(path, uid=job.uid), lease_s=_lease_s(job.limit_s))
        attempt = earlier.attempt + 1 if earlier else 1
        record = Record(job.id, job.submitted, job.restarts, job.uid, project, body, attempt)
        self._records.put(record)
        return record

    async def _request(self, following: Following, record: Record) -> Record:
        """The run of this record's key. A run that ended while its job was held has no root any more, and slurmctld
        tears down and asks again what it found staged when it was started: then it is the next attempt's."""

        def asking(attempt: int) -> None:
            nonlocal record
            record = msgspec.structs.replace(record, attempt=attempt, run="")
            self._records.put(record)

        key = record.key(self._settings.cluster)
        try:
            run = await following.request_living(record.body, key=key, attempt=record.attempt, asking=asking)
        except MoverError as error:
            # what is asked for once more, after a release, is another
            if error.retry != "later":
                self._records.put(msgspec.structs.replace(record, over=True))
            raise
        record = msgspec.structs.replace(record, run=run.id)
        self._records.put(record)
        return record

    # --- around the job ---------------------------------------------------------------------------------------

    async def check(self, job_id: int) -> None:
        """`pre_run`: the lease begins anew with the job. Nodes are held here: a daemon that is away is not waited
        for, because the sealed root needs none."""
        record = self._current(job_id)
        async with self._client(record.project) as client:
            try:
                await Following(client, limit_s=CHECK_LIMIT_S).heartbeat(record.run)
            except Conflict as error:
                what = f"{error.what}: release the job and it is staged again"
                raise RequestInvalid(what, where=record.run) from error
            except MoverError as error:
                if error.retry != "later":
                    raise

    async def finish(self, job_id: int, said: list[str]) -> None:
        """`data_out`: what the job wrote, proved protected. Its nodes are free again."""
        record = self._current(job_id)
        job = await self._job(job_id)
        body = words.finish_request(
            words.pairs(said, known=words.STAGE_OUT),
            exit_status=job.exit_status,
            environment={"slurm_cluster": self._settings.cluster, "slurm_job": str(job_id)},
        )
        # only in the name of its user are other paths taken; without any, who left the group keeps nothing from its end
        acts_for = record.uid if body.artifacts or body.code or body.logs else None
        async with self._client(record.project, acts_for=acts_for) as client:
            following = Following(client, limit_s=STAGE_LIMIT_S)
            try:
                run = await following.finish(record.run, body)
            except Conflict:
                # its lease lapsed before: out/ is protected all the same, and nothing else was named
                if body.artifacts or body.code or body.logs:
                    raise
                run = await following.protected(record.run)
        if run.state not in PROTECTED:
            raise RequestInvalid(f"not protected: {words.told_of(run)}")

    async def end(self, job_id: int) -> None:
        """`teardown`, also of a job that never began. What cannot be ended now is `keep`'s, and its lease's."""
        for record in self._records.of_job(job_id):
            await self._end(record)

    async def _end(self, record: Record) -> None:
        if record.over:
            self._records.forget(record)
            return
        async with self._client(record.project, acts_for=record.uid) as client:
            following = Following(client, limit_s=END_LIMIT_S)
            try:
                if not record.run:
                    # killed between the record and the answer: the key tells which run that was, if any
                    record = await self._request(following, record)
                if record.left and (await following.view(record.run)).state == "ready":
                    return
                run = await following.end(record.run)
            except MoverError as error:
                if error.retry == "later" or (record.run and not isinstance(error, NotFound)):
                    raise
                self._records.forget(record)
                return
        if run.state in ENDED:
            self._records.forget(record)
            return
        # giving it up again and again would make a snapshot that is not whole each time
        self._records.put(msgspec.structs.replace(record, left=True))
        raise RequestInvalid(f"not protected, and left to its lease: {words.told_of(run)}")

    # --- from time to time --------------------------------------------------------------------------------------

    async def keep(self) -> None:
        """By a timer: leases of jobs that still wait or run, the end of what no job stands for any more, and the
        size of the pools. The records are read before the jobs: a job that comes in between has none yet."""
        records = list(self._records.all())
        listed = await asyncio.to_thread(self._slurm.listed)
        current = {one.job: one for one in sorted(records, key=lambda one: (int(one.submitted), one.restarts))}
        for record in records:
            try:
                if record.job in listed and current[record.job] == record:
                    await self._heartbeat(record)
                else:
                    await self._end(record)
            except MoverError as error:
                click.echo(f"job {record.job}: {words.told(error)}", err=True)
        self._records.sweep(listed)
        async with self._client(next(iter(self._settings.tokens))) as client:
            self._records.pools(await client.tiers())

    async def _heartbeat(self, record: Record) -> None:
        if not record.run or record.over:
            return
        async with self._client(record.project) as client:
            try:
                await client.runs.heartbeat(record.run)
            except Conflict:
                return  # not ready yet, or already finishing: neither has a lease

    # --- small tools --------------------------------------------------------------------------------------------

    async def _job(self, job_id: int) -> Job:
        """A busy slurmctld is asked again: it is the one who waits for us."""
        return await patiently(lambda: asyncio.to_thread(self._slurm.job, job_id), limit_s=SLURM_LIMIT_S)

    def _current(self, job_id: int) -> Record:
        found = [one for one in self._records.of_job(job_id) if one.run]
        if not found:
            raise NotFound("no run was staged for this job", where=str(job_id))
        return found[-1]

    def _project(self, said: dict[str, str]) -> str:
        known = sorted(self._settings.tokens)
        project = said.get("project", known[0] if len(known) == 1 else "")
        if project not in known:
            raise RequestInvalid(f"say project=, one of {', '.join(known)}", where="directive")
        return project

    def _client(self, project: str, *, acts_for: int | None = None) -> Client:
        settings = self._settings
        token = read_token(Path(settings.tokens[project]))
        return Client(settings.url, token=token, ca_file=settings.ca_file, acts_for=acts_for)


def _lease_s(limit_s: int | None) -> int | None:
    """The job's whole time, so that a run's lease needs nobody while its job runs; the policy's for a job without a
    limit, whose lease the timer keeps."""
    if limit_s is None:
        return None
    least, most = LEASE_LIMITS_S
    return max(least, min(most, limit_s + LEASE_MARGIN_S))


def _environment(run: wire.Run) -> dict[str, str]:
    return {
        "MOVER_RUN_ID": run.id,
        "MOVER_RUN_DIR": run.root or "",
        "MOVER_OUT_DIR": run.out or "",
        "MOVER_MANIFEST_ROOT": run.manifest_root or "",
    }


def load(path: Path) -> SlurmFile:
    return yaml_reader.read_as(path, SlurmFile, then=_more, error=SettingsInvalid)


def _more(written: SlurmFile) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if not written.tokens:
        yield ("tokens",), "at least one project with its token file"
    if "/" in written.cluster or not written.cluster.isprintable() or not written.cluster.isascii():
        yield ("cluster",), "a cluster's name is plain ASCII without '/'"


@click.group()
@click.option("--config", type=click.Path(path_type=Path), default="/etc/mover/slurm.yaml", show_default=True)
@click.pass_context
def command(ctx: click.Context, config: Path) -> None:
    """What Slurm's burst_buffer.lua calls for each phase of a job; see docs/schedulers.md."""
    ctx.obj = config


@command.command("stage")
@click.argument("job", type=int)
@click.argument("said", nargs=-1)
@click.pass_context
def stage(ctx: click.Context, job: int, said: tuple[str, ...]) -> None:
    """data_in: the job's run, ready on flash."""
    _answer(ctx, lambda hook: hook.stage(job, list(said)), said)


@command.command("check")
@click.argument("job", type=int)
@click.pass_context
def check(ctx: click.Context, job: int) -> None:
    """pre_run: the lease begins anew."""
    _answer(ctx, lambda hook: hook.check(job))


@command.command("finish")
@click.argument("job", type=int)
@click.argument("said", nargs=-1)
@click.pass_context
def finish(ctx: click.Context, job: int, said: tuple[str, ...]) -> None:
    """data_out: what the job wrote, protected."""
    _answer(ctx, lambda hook: hook.finish(job, list(said)), said)


@command.command("end")
@click.argument("job", type=int)
@click.pass_context
def end(ctx: click.Context, job: int) -> None:
    """teardown: the run root is gone."""
    _answer(ctx, lambda hook: hook.end(job))


@command.command("keep")
@click.pass_context
def keep(ctx: click.Context) -> None:
    """By a timer: leases of jobs that wait or run, the end of runs without a job, the pools' sizes."""
    _answer(ctx, lambda hook: hook.keep())


def _answer(ctx: click.Context, work: Callable[[Hook], Coroutine[Any, Any, None]], said: tuple[str, ...] = ()) -> None:
    try:
        asyncio.run(work(Hook(load(ctx.obj))))
    except MoverError as error:
        click.echo(f"error: {words.told(error, said=[word.partition('=')[2] for word in said])}")
        ctx.exit(error.exit_status)
    click.echo("ok")


def main() -> None:
    command(prog_name="mover-slurm")
