"""A real Slurm, a real daemon, an ordinary user: the whole of a training run driven by the scheduler."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from mover.model import wire
from mover.sdk import SyncClient
from tests.integrations.slurmhouse import SlurmHouse, missing
from tests.system.ward import WAIT_S, Ward

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("slurm"),
    pytest.mark.skipif(bool(missing()), reason=f"needs Slurm (Debian: slurm-wlm munge): {', '.join(missing())}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: Slurm starts jobs of other users"),
]

# users every Debian has; neither is the daemon's. The first is in the project's group, the second is not.
ANA, EVE = pwd.getpwnam("nobody"), pwd.getpwnam("games")

TRAIN = """#!/bin/bash
#BB_LUA pool=flash capacity=1
#BB_LUA stage_in expression="family is not null" layout=flat
#BB_LUA stage_out code={code}
set -e
cd "$MOVER_RUN_DIR"
test "$(id -u)" = {uid}
# the manifest's lines without its header are what stands there, by path and by size
sed 1d manifest.jsonl | grep -o '"path":"[^"]*"' | cut -d'"' -f4 | sort > "$MOVER_OUT_DIR/listed"
find data records.parquet -type f | sort > "$MOVER_OUT_DIR/standing"
cmp "$MOVER_OUT_DIR/listed" "$MOVER_OUT_DIR/standing"
if touch data/stranger 2>/dev/null; then exit 9; fi
if cat {private} 2>/dev/null; then exit 8; fi
echo "weights of $MOVER_RUN_ID" > "$MOVER_OUT_DIR/model.bin"
{then}
"""


class House(NamedTuple):
    slurm: SlurmHouse
    site: Ward
    home: Path
    config: Path


@pytest.fixture(scope="module")
def house(site: Ward) -> Iterator[House]:
    """Slurm beside a site whose daemon runs, with a scheduler's token for the group of ANA; one for all tests here."""
    folder = site.root.parent
    socket, state = folder / "mover.sock", folder / "mover-slurm"
    site.change_settings(lambda settings: settings.update(listen={"unix": str(socket)}))
    home = site.root / "home"
    (home / "ana").mkdir(parents=True)
    home.chmod(0o711)
    os.chown(home / "ana", ANA.pw_uid, ANA.pw_gid)
    (home / "ana").chmod(0o755)
    (home / "ana" / "code").mkdir()
    (home / "ana" / "code" / "train.py").write_text("print('train')\n")
    (home / "private").write_text("the daemon's own\n")
    (home / "private").chmod(0o600)
    with site.start() as admin:
        request = wire.TokenRequest(actor="slurm", role="scheduler", posix_gid=ANA.pw_gid)
        secret = admin.tokens.make(request).secret
    token, config = folder / "slurm.token", folder / "slurm.yaml"
    token.write_text(str(secret))
    token.chmod(0o600)
    settings = {"cluster": "test", "url": f"unix://{socket}", "tokens": {"demo": str(token)}, "state_dir": str(state)}
    config.write_text(yaml.safe_dump(settings))
    slurm_folder = folder / "slurm"
    slurm_folder.mkdir(mode=0o755)
    command = f"{sys.executable} -c 'from mover.schedulers.slurm import main; main()' --config {config}"
    slurm = SlurmHouse(slurm_folder, command=command, state=state)
    # what `mover-slurm keep` would have written: Slurm asks for its pools when it starts
    state.mkdir(mode=0o700)
    pools = {"pools": [{"id": "flash", "quantity": 64, "granularity": 1}]}
    (state / "pools.json").write_text(json.dumps(pools))
    try:
        slurm.start()
        yield House(slurm, site, home / "ana", config)
    finally:
        slurm.stop()


def submit(house: House, script: str, *, user: pwd.struct_passwd = ANA, **options: str) -> str:
    return house.slurm.submit(script, uid=user.pw_uid, gid=user.pw_gid, home=house.home, **options)


def training(house: House, then: str = "true") -> str:
    return TRAIN.format(uid=ANA.pw_uid, code=house.home / "code", private=house.home.parent / "private", then=then)


def the_run(client: SyncClient, job: str, house: House) -> wire.Run:
    """By what the integration wrote down for the job."""
    [record] = (house.site.root.parent / "mover-slurm").glob(f"{job}-*.json")
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
    slurm._await(lambda: list((site.root.parent / "mover-slurm").glob(f"{given_up}-*.json")))
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
        slurm._await(lambda: not list((site.root.parent / "mover-slurm").glob("*-*")))
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
    ):
        answer = submit(house, f"#!/bin/bash\n#BB_LUA {line}\ntrue\n")
        assert said in answer and "Burst Buffer request invalid" in answer, answer

    listed = house.home / "list"
    listed.write_text("MUSTERMANN ERIKA 1951\n")
    os.chown(listed, ANA.pw_uid, ANA.pw_gid)
    theirs = house.home / "theirs"
    theirs.write_text("root's own\n")
    marker = house.home / "quoted"
    hostile = f"cohort=\"a'; touch {marker}; '$(touch {marker})\""
    with site.client() as client:
        whole = f"#!/bin/bash\n#BB_LUA stage_in files={listed}\ntrue\n"
        cases = {
            submit(house, whole): "line_1:_malformed",
            submit(house, whole.replace(str(listed), str(theirs))): "no_file_of_the_job's_user",
            submit(house, whole.replace(f"files={listed}", "cohort=absent")): "no_such_cohort",
            # a stranger to the project's group gets none of its slides
            submit(house, whole.replace(f"files={listed}", 'expression="family is not null"'), user=EVE): "no_member",
            submit(house, whole.replace(f"files={listed}", hostile)): "no_such_cohort",
        }
        for job, reason in cases.items():
            facts = slurm.await_reason(job, reason)
            assert facts["JobState"] == "PENDING"
        assert "MUSTERMANN" not in slurm.ask("scontrol", "show", "job")
        assert not marker.exists()
        for job in cases:
            slurm.ask("scancel", job)
        for job in cases:
            assert slurm.await_over(job)["JobState"] == "CANCELLED"
        assert {run.state for run in client.runs.list().runs} <= {"refused", "cleaned"}
    assert not (site.flash / "runs").exists() or list((site.flash / "runs").iterdir()) == []
    assert not list((site.root.parent / "mover-slurm").glob("*-*"))
    assert slurm.ask("sinfo", "-h", "-o", "%T").strip() == "idle"


def test_killed_cancelled_and_requeued_jobs_end_in_clean_flash(house: House) -> None:
    """A killed job's artifacts are protected like any other's; a job cancelled while it waits leaves nothing; a
    requeued one gets another run, because its first root is gone; a task that would train on nothing does not begin."""
    slurm, site = house.slurm, house.site
    with site.client() as client:
        killed, requeued = (submit(house, training(house, "sleep 600"), time="10") for _ in range(2))
        lost = submit(house, "#!/bin/bash\ntouch began\n", export=f"MOVER_RUN_DIR={house.home},MOVER_RUN_ID=run-1")
        for job in (killed, requeued):
            slurm.await_state(job, "RUNNING")
        first = {job: the_run(client, job, house) for job in (killed, requeued)}
        slurm._await(lambda: (site.flash / "runs" / first[killed].id / "out" / "model.bin").exists())
        slurm.ask("scancel", killed)
        slurm.ask("scontrol", "requeue", requeued)
        assert slurm.await_over(killed)["JobState"] == "CANCELLED"
        ended = client.runs.wait(first[killed].id, until=frozenset({"cleaned"}), timeout_s=WAIT_S)
        assert ended.state == "cleaned" and ended.snapshots

        assert slurm.await_over(lost)["JobState"] == "FAILED" and not (house.home / "began").exists()
        assert "does not see the run root" in (house.home / f"{lost}.out").read_text()

        slurm._await(lambda: slurm.facts(requeued).get("Restarts") == "1" and slurm.state(requeued) == "RUNNING")
        second = the_run(client, requeued, house)
        assert second.id != first[requeued].id
        slurm.ask("scancel", requeued)
        slurm.await_over(requeued)
        for run in (*first.values(), second):
            assert client.runs.wait(run.id, until=frozenset({"cleaned"}), timeout_s=WAIT_S).state == "cleaned"
        assert list((site.flash / "runs").iterdir()) == []
        assert slurm.ask("sinfo", "-h", "-o", "%T").strip() == "idle"


def test_what_no_job_stands_for_any_more_is_ended_by_the_timer(house: House) -> None:
    """A job is gone and its teardown was lost: `keep` ends its run. Of a job that runs it keeps the lease, and it tells
    Slurm how large flash is."""
    slurm, site = house.slurm, house.site
    state = site.root.parent / "mover-slurm"
    with site.client() as client:
        job = submit(house, training(house, "sleep 600"), time="10")
        slurm.await_state(job, "RUNNING")
        run = the_run(client, job, house)
        keep(house)
        kept = client.runs.view(run.id)
        assert kept.lease_until and run.lease_until and kept.lease_until > run.lease_until
        [pool] = json.loads((state / "pools.json").read_bytes())["pools"]
        assert pool["id"] == "flash" and pool["quantity"] >= 1

        [path] = state.glob(f"{job}-*.json")
        record = {**json.loads(path.read_bytes()), "job": 4242}
        path.rename(state / path.name.replace(job, "4242", 1)).write_text(json.dumps(record))
        keep(house)
        assert client.runs.view(run.id).state == "cleaned" and not list(state.glob("4242-*"))


def keep(house: House) -> None:
    code = "from mover.schedulers.slurm import main; main()"
    command = [sys.executable, "-c", code, "--config", str(house.config), "keep"]
    done = subprocess.run(command, env=house.slurm._environment, capture_output=True, text=True, check=False)
    assert done.stdout == "ok\n" and not done.stderr, done.stdout + done.stderr
