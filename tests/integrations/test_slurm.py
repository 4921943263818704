"""A real Slurm, a real daemon, an ordinary user: the whole of a training run driven by the scheduler."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from mover.model import wire
from mover.sdk import SyncClient
from tests.integrations.slurmhouse import SLURM_USER, SlurmHouse, missing, python_for
from tests.system.ward import WAIT_S, Ward

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("slurm"),
    pytest.mark.skipif(bool(missing()), reason=f"needs Slurm (Debian: slurm-wlm munge): {', '.join(missing())}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: Slurm starts jobs of other users"),
]

# users every Debian has; neither is the daemon's. The first is in the project's group, the second is not.
ANA, EVE = pwd.getpwnam("nobody"), pwd.getpwnam("games")

EVERYTHING = 'expression="family is not null" layout=flat'
TRAIN = """#!/bin/bash
#BB_LUA pool=flash capacity=1
#BB_LUA stage_in {what}
#BB_LUA stage_out code={code}
set -e
test "$(id -u)" = {uid}
{before}
# every name, size and time against the sealed manifest; what differs is named, and the job fails
{mover} check "$MOVER_RUN_DIR"
if touch "$MOVER_RUN_DIR/data/stranger" 2>/dev/null; then exit 9; fi
if cat {private} 2>/dev/null; then exit 8; fi
echo "weights of $MOVER_RUN_ID" > "$MOVER_OUT_DIR/model.bin"
{then}
"""


class House(NamedTuple):
    slurm: SlurmHouse
    site: Ward
    home: Path
    command: str
    mover: str

    @property
    def records(self) -> Path:
        return self.site.root.parent / "mover-slurm"


@pytest.fixture(scope="module")
def house(site: Ward) -> Iterator[House]:
    """Slurm beside a site whose daemon runs, with a scheduler's token for the group of ANA; one for all tests here.
    slurmctld is no root's, nor the daemon's: it has the token's file, and may reach the daemon's socket."""
    found = python_for(SLURM_USER)
    if found is None:
        pytest.skip("needs an interpreter and a checkout that other users may read")
    python, python_path = found
    folder = site.root.parent
    doors, state = folder / "doors", folder / "mover-slurm"
    for place in (doors, state):
        place.mkdir()
    shutil.chown(doors, group=SLURM_USER)
    doors.chmod(0o2750)
    socket = doors / "mover.sock"
    site.change_settings(lambda settings: settings.update(listen={"unix": str(socket)}))
    home = a_home(site.root / "home")
    with site.start() as admin:
        request = wire.TokenRequest(actor="slurm", role="scheduler", posix_gid=ANA.pw_gid)
        secret = admin.tokens.make(request).secret
    token, config = folder / "slurm.token", folder / "slurm.yaml"
    settings = {"cluster": "test", "url": f"unix://{socket}", "tokens": {"demo": str(token)}, "state_dir": str(state)}
    token.write_text(str(secret))
    config.write_text(yaml.safe_dump(settings))
    # what `mover-slurm keep` would have written: Slurm asks for its pools when it starts
    pools = {"pools": [{"id": "flash", "quantity": 64, "granularity": 1}]}
    (state / "pools.json").write_text(json.dumps(pools))
    for path, mode in ((token, 0o600), (config, 0o600), (state / "pools.json", 0o600), (state, 0o700)):
        shutil.chown(path, SLURM_USER)
        path.chmod(mode)
    slurm_folder = folder / "slurm"
    slurm_folder.mkdir(mode=0o755)
    command = f"{python} -c 'from mover.schedulers.slurm import main; main()' --config {config}"
    slurm = SlurmHouse(slurm_folder, command=command, state=state, python_path=python_path)
    try:
        slurm.start()
        yield House(slurm, site, home, command, f"{python} -m mover")
    finally:
        slurm.stop()


def a_home(homes: Path) -> Path:
    """ANA's, with code to keep, beside a file that is the daemon's own."""
    home = homes / "ana"
    (home / "code").mkdir(parents=True)
    homes.chmod(0o711)
    os.chown(home, ANA.pw_uid, ANA.pw_gid)
    home.chmod(0o755)
    (home / "code" / "train.py").write_text("print('train')\n")
    (homes / "private").write_text("the daemon's own\n")
    (homes / "private").chmod(0o600)
    return home


def submit(house: House, script: str, *, user: pwd.struct_passwd = ANA, **options: str) -> str:
    return house.slurm.submit(script, uid=user.pw_uid, gid=user.pw_gid, home=house.home, **options)


def training(house: House, then: str = "true", *, before: str = "true", what: str = EVERYTHING) -> str:
    return TRAIN.format(
        what=what, uid=ANA.pw_uid, code=house.home / "code", private=house.home.parent / "private", then=then,
        before=before, mover=house.mover,
    )  # fmt: skip


def the_run(client: SyncClient, job: str, house: House) -> wire.Run:
    """By what the integration wrote down for the job."""
    [record] = house.records.glob(f"{job}-*.json")
    return client.runs.view(json.loads(record.read_bytes())["run"])


def test_a_job_waits_pending_for_its_cohort_trains_and_leaves_protected_artifacts_and_clean_flash(
    house: House,
) -> None:
    """The whole issue in one job: no GPU is held while data comes, the root is exact, what the job wrote is proved
    protected, and nothing stays. The daemon is away when the job is submitted, and killed while it runs."""
    slurm, site = house.slurm, house.site
    site.stop()
    go = house.home / "go"
    job = submit(house, training(house, f"while [ ! -e {go} ]; do sleep 0.1; done"), time="10")
    waiting = slurm.await_state(job, "PENDING")
    assert waiting["BurstBufferState"] in ("pending", "staging-in") and waiting["NodeList"] == ""
    given_up = submit(house, training(house), time="10")
    slurm._await(lambda: list(house.records.glob(f"{given_up}-*.json")))
    slurm.ask("scancel", given_up)

    with site.start() as client:
        slurm.await_state(job, "RUNNING")
        run = the_run(client, job, house)
        assert run.state == "ready" and run.root and run.count > 0
        # the lease lasts as long as the job may
        assert run.lease_until is not None and (run.lease_until - run.created_at).total_seconds() > 10 * 60
    site._crash()
    go.touch()
    house.slurm.await_state(job, "STAGE_OUT")
    with site.start() as client:
        facts = slurm.await_over(job)
        assert facts["JobState"] == "COMPLETED" and facts["ExitCode"] == "0:0", (house.home / f"{job}.out").read_text()
        after = client.runs.wait(run.id, until=frozenset({"cleaned"}), timeout_s=WAIT_S)
        assert after.state == "cleaned" and {proof.kind for proof in after.proofs} >= {"ready", "protected", "cleaned"}
        # the other was cancelled while nobody answered: whatever came of its request is gone too
        assert slurm.await_over(given_up)["JobState"] == "CANCELLED"
        nothing_left(house)
        assert list((site.flash / "runs").iterdir()) == []
        kept = house.home.parent / "kept"
        site.restore(client, after.snapshots[0], kept, "/")
    found = {path.name: path for path in kept.rglob("*")}
    assert found["model.bin"].read_text() == f"weights of {run.id}\n" and "train.py" in found
    assert slurm.ask("sinfo", "-h", "-o", "%T").strip() == "idle"


def test_what_cannot_be_is_refused_where_its_author_looks_and_names_nobody(house: House) -> None:
    """A mistake in a line is told by sbatch, a set that is not whole in the job's reason; nothing is staged, no node
    drained. The reason is everybody's to read, so what is no slide number is told by its line only (D10)."""
    slurm, site = house.slurm, house.site
    for line, said in (
        ("stage_in cohrt=prostate", "unknown word cohrt=prostate"),
        ('stage_in expression="open', "a quote is not closed"),
        ("stage_in cohort=a files=/b", "exactly one of"),
        ("stage_out code=/x", "exactly one of"),
        # Slurm would make another cohort of it, named after the job
        ("stage_in expression=\"family like '%x%'\"", "write %% for a %"),
    ):
        answer = submit(house, f"#!/bin/bash\n#BB_LUA {line}\ntrue\n")
        assert said in answer and "Burst Buffer request invalid" in answer, answer

    listed = house.home / "list"
    listed.write_text("MUSTERMANN ERIKA 1951\n")
    os.chown(listed, ANA.pw_uid, ANA.pw_gid)
    theirs = house.home / "theirs"
    theirs.write_text("root's own\n")
    marker = house.home / "quoted"
    named = "expression=\"family like 'M%%' and surname = 'MUSTERMANN'\""
    hostile = f"cohort=\"a'; touch {marker}; '$(touch {marker})\""
    with site.client() as client:
        whole = f"#!/bin/bash\n#BB_LUA stage_in files={listed}\ntrue\n"
        cases = {
            submit(house, whole): "line_1:_malformed",
            submit(house, whole.replace(str(listed), str(theirs))): "no_file_of_the_job's_user",
            submit(house, whole.replace(f"files={listed}", "cohort=absent")): "no_such_cohort",
            submit(house, whole.replace(f"files={listed}", named)): "expression-invalid:_its_author_sees_why",
            # a stranger to the project's group gets none of its slides
            submit(house, whole.replace(f"files={listed}", 'expression="family is not null"'), user=EVE): "no_member",
            submit(house, whole.replace(f"files={listed}", hostile)): "no_such_cohort",
        }
        for job, reason in cases.items():
            facts = slurm.await_reason(job, reason)
            assert facts["JobState"] == "PENDING"
        # of what was typed Slurm itself shows the line; neither a reason, a comment nor a log adds to that
        shown = slurm.ask("scontrol", "show", "job") + (slurm.folder / "slurmctld.out").read_text()
        assert not [line for line in shown.splitlines() if "MUSTERMANN" in line and "BurstBuffer=#" not in line]
        assert not marker.exists()
        for job in cases:
            slurm.ask("scancel", job)
        for job in cases:
            assert slurm.await_over(job)["JobState"] == "CANCELLED"
        assert {run.state for run in client.runs.list().runs} <= {"refused", "cleaned"}
    assert not (site.flash / "runs").exists() or list((site.flash / "runs").iterdir()) == []
    nothing_left(house)
    assert slurm.ask("sinfo", "-h", "-o", "%T").strip() == "idle"


def test_killed_cancelled_and_requeued_jobs_end_in_clean_flash(house: House) -> None:
    """A killed job's artifacts are protected like any other's; a job cancelled while it waits leaves nothing; a
    requeued one gets another run, because its first root is gone; each task of an array has a run of its own."""
    slurm, site = house.slurm, house.site
    with site.client() as client:
        client.cohorts.save("known", "family is not null and subject is not null")
        dealt = client.cohorts.split("known", {"train": 0.5, "test": 0.5})
        parts = ",".join(f"{part.name}={part.selection}" for part in dealt.parts)
        soon = f"splits={parts} priority=1 deadline=2100-01-01T00:00:00+01:00"
        in_parts = 'test -d "$MOVER_RUN_DIR/data/train" -a -d "$MOVER_RUN_DIR/data/test"'
        tars = EVERYTHING.replace("flat", "shards shard_bytes=1048576")
        killed = submit(house, training(house, "sleep 600", what=tars), time="10")
        requeued = submit(house, training(house, "sleep 600", before=in_parts, what=soon), time="10")
        array = submit(house, training(house), time="10", array="1-2")
        for job in (killed, requeued):
            slurm.await_state(job, "RUNNING")
        first = {job: the_run(client, job, house) for job in (killed, requeued)}
        slurm._await(lambda: all((Path(run.out or "") / "model.bin").exists() for run in first.values()))
        slurm.ask("scancel", killed)
        slurm.ask("scontrol", "requeue", requeued)
        assert slurm.await_over(killed)["JobState"] == "CANCELLED"
        ended = client.runs.wait(first[killed].id, until=frozenset({"cleaned"}), timeout_s=WAIT_S)
        assert ended.state == "cleaned" and ended.snapshots

        slurm._await(lambda: slurm.facts(requeued).get("Restarts") == "1" and slurm.state(requeued) == "RUNNING")
        second = the_run(client, requeued, house)
        assert second.id != first[requeued].id
        slurm.ask("scancel", requeued)
        slurm.await_over(requeued)
        # Slurm gives the last task the array's own id, which is asked about with all the others
        slurm._await(lambda: not slurm.ask("squeue", "-h", "-r", "-j", array).strip(), array)
        ours = client.runs.list(limit=5).runs
        assert {second.id, *(run.id for run in first.values())} < {run.id for run in ours}
        for run in ours:
            assert client.runs.wait(run.id, until=frozenset({"cleaned"}), timeout_s=WAIT_S).state == "cleaned"
            assert client.runs.view(run.id).snapshots
        assert list((site.flash / "runs").iterdir()) == []
        nothing_left(house)
        assert slurm.ask("sinfo", "-h", "-o", "%T").strip() == "idle"


def test_no_job_trains_on_what_was_not_sealed(house: House) -> None:
    """Three days on partial or foreign data: a root that this node does not see, a step that was told of none, and one
    in which somebody put a file after the seal. Each ends before its first batch, and drains no node."""
    slurm, site = house.slurm, house.site
    go, began = house.home / "planted", house.home / "began"
    with site.client() as client:
        unseen = submit(house, f"#!/bin/bash\ntouch {began}\n", export=f"MOVER_RUN_DIR={house.home},MOVER_RUN_ID=run-1")
        step = f"srun -n1 --mem=1 --export=NONE /usr/bin/touch {began}"
        untold = submit(house, training(house, step), time="10")
        planted = submit(house, training(house, before=f"while [ ! -e {go} ]; do sleep 0.1; done"), time="10")
        slurm.await_state(planted, "RUNNING")
        run = the_run(client, planted, house)
        (site.flash / "runs" / run.id / "data" / "stranger.svs").write_bytes(b"of another run")
        go.touch()
        for job, told in (
            (unseen, "does not see the run root"),
            (untold, "this step has not its job's environment"),
            (planted, "stranger: data/stranger.svs: it is not in the manifest"),
        ):
            assert slurm.await_over(job)["JobState"] == "FAILED"
            assert told in (house.home / f"{job}.out").read_text()
        assert not began.exists()
        ended = client.runs.wait(run.id, until=frozenset({"cleaned"}), timeout_s=WAIT_S)
        assert ended.state == "cleaned" and [stray["path"] for stray in ended.strays] == ["data/stranger.svs"]
        assert slurm.ask("sinfo", "-h", "-o", "%T").strip() == "idle"


def test_what_no_job_stands_for_any_more_is_ended_by_the_timer(house: House) -> None:
    """A job is gone and its teardown was lost: `keep` ends its run. Of a job that runs it keeps the lease, and it tells
    Slurm how large flash is. What cannot be protected it gives up once: each time makes a snapshot that is not whole.
    """
    slurm, site = house.slurm, house.site
    with site.client() as client:
        job = submit(house, training(house, "sleep 600"), time="10")
        slurm.await_state(job, "RUNNING")
        run = the_run(client, job, house)
        keep(house)
        kept = client.runs.view(run.id)
        assert kept.lease_until and run.lease_until and kept.lease_until > run.lease_until
        [pool] = json.loads((house.records / "pools.json").read_bytes())["pools"]
        assert pool["id"] == "flash" and pool["quantity"] >= 1

        [path] = house.records.glob(f"{job}-*.json")
        record = {**json.loads(path.read_bytes()), "job": 4242}
        path.rename(house.records / path.name.replace(job, "4242", 1)).write_text(json.dumps(record))
        out = Path(run.out or "")
        away = out.rename(out.with_name("away"))
        keep(house, told="job 4242: not protected, and left to its lease: ready - protection-incomplete")
        keep(house)
        assert len(client.runs.view(run.id).snapshots) == 1

        away.rename(out)
        site.change("update mover.run set lease_until = now() where id = %s", run.id)
        ended = client.runs.wait(run.id, until=frozenset({"cleaned"}), timeout_s=WAIT_S)
        assert ended.state == "cleaned" and ended.reason == "lease-expired"
        keep(house)
        assert not list(house.records.glob("4242-*"))


def nothing_left(house: House) -> None:
    """What a killed teardown has left is the timer's to end."""

    def ended() -> bool:
        keep(house)
        return not list(house.records.glob("*-*"))

    house.slurm._await(ended)


def keep(house: House, *, told: str = "") -> None:
    """As the timer's unit does."""
    done = subprocess.run(
        f"{house.command} keep", shell=True, user=SLURM_USER, group=SLURM_USER, extra_groups=[], cwd="/",
        env=house.slurm._environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "ok\n" and told in done.stderr and bool(told) == bool(done.stderr), done.stdout + done.stderr
