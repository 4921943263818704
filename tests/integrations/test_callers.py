"""Who calls the API without Slurm: plain lines, Airflow's trigger, Kueue's controller, step templates."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import yaml
from aiohttp.test_utils import TestServer

from mover.clock import monotonic_s, pause
from mover.model import wire
from mover.schedulers.following import ask_run, follow, give_up
from mover.schedulers.kueue import CONTROLLER, OUT_DIR, RUN_DIR, RUN_ID, Api, Controller, KueueFile, Namespace
from mover.sdk import SyncClient
from tests.integrations.kubernetes import TOKEN, SmallApi
from tests.system.ward import WAIT_S, Ward

ROOT = Path(__file__).parents[2]
EVERYTHING = "family is not null"

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("callers")]


@pytest.fixture
def client(standing: Ward) -> Iterator[SyncClient]:
    with standing.client() as opened:
        yield opened


@pytest.fixture
def secret(standing: Ward, client: SyncClient, tmp_path: Path) -> Callable[..., Path]:
    """A file with a new token."""

    def make(role: str, **said: int) -> Path:
        token = client.tokens.make(wire.TokenRequest(actor=role, role=role, **said))  # type: ignore[arg-type]
        path = tmp_path / f"{role}.token"
        path.write_text(token.secret)
        path.chmod(0o600)
        return path

    return make


class Step(NamedTuple):
    """Lines that a scheduler would run, and what it would give them."""

    lines: str
    environment: Mapping[str, str] = {}
    stdin: str = ""


def begin(step: Step, standing: Ward, folder: Path | None = None) -> subprocess.Popen[str]:
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), **step.environment,
        "MOVER_URL": standing.url, "MOVER_TOKEN_FILE": str(standing.site.token),
        "MOVER_TOKEN": standing.site.token.read_text().strip(),
    }  # fmt: skip
    return subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", step.lines], env=environment, cwd=folder, text=True, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def run_lines(step: Step, standing: Ward, folder: Path | None = None) -> None:
    running = begin(step, standing, folder)
    said, _ = running.communicate(step.stdin, timeout=WAIT_S)
    assert running.returncode == 0, said


def stands(path: str) -> bool:
    return os.path.lexists(path)


def owner(path: str) -> int:
    return os.stat(path).st_uid


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_lines_of_the_page_stage_train_protect_and_clean(standing: Ward, client: SyncClient) -> None:
    """Whoever has no scheduler of the ones we know begins by copying these lines."""
    [lines] = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "schedulers.md").read_text("utf-8"), flags=re.S)
    run_lines(Step(lines), standing)
    run = client.runs.list().runs[0]
    assert run.state == "cleaned" and run.snapshots
    assert list((standing.flash / "runs").iterdir()) == []


async def test_a_trigger_follows_a_run_to_ready_and_to_its_end_also_twice_at_once(
    standing: Ward, client: SyncClient, secret: Callable[..., Path]
) -> None:
    """What Airflow's triggerer does with a deferred task: it may do it in two places, and again after a crash."""
    token = str(secret("operator"))
    body = wire.RunRequest(expression=EVERYTHING)
    run = await asyncio.to_thread(ask_run, standing.url, token, body, key="airflow/1")
    first, second = await asyncio.gather(*(follow(standing.url, token, run, "ready", limit_s=WAIT_S) for _ in range(2)))
    assert first == second and first.well and first.root
    await asyncio.to_thread(Path(first.out or "", "model.bin").write_text, "weights")
    ends = await asyncio.gather(*(follow(standing.url, token, run, "cleaned", limit_s=WAIT_S) for _ in range(2)))
    assert all(end.well and end.snapshots for end in ends), ends
    assert not stands(first.root)
    absent = await follow(standing.url, token, "run-absent", "ready", limit_s=1)
    assert not absent.well and "no such run" in absent.why
    other = await asyncio.to_thread(ask_run, standing.url, token, body, key="airflow/2")
    await asyncio.to_thread(give_up, standing.url, token, other)
    given_up = await follow(standing.url, token, other, "ready", limit_s=WAIT_S)
    assert not given_up.well and "cancelled" in given_up.why


async def test_a_lease_shorter_than_its_training_is_kept_beside_it_and_for_no_longer(
    standing: Ward, client: SyncClient, secret: Callable[..., Path]
) -> None:
    """The root of a living training must not be cleaned after a day; one whose training died must not stay for ever."""
    token = str(secret("operator"))
    body = wire.RunRequest(expression=EVERYTHING, lease_s=60)
    run = await asyncio.to_thread(ask_run, standing.url, token, body, key="airflow/kept")
    await follow(standing.url, token, run, "ready", limit_s=WAIT_S)
    began = client.runs.view(run).lease_until
    died = await follow(standing.url, token, run, "kept", limit_s=2, every_s=0.5)
    assert not died.well and "nobody finished" in died.why
    assert client.runs.view(run).lease_until > began
    keeping = asyncio.create_task(follow(standing.url, token, run, "kept", limit_s=WAIT_S, every_s=0.2))
    await asyncio.sleep(0)
    ended = await follow(standing.url, token, run, "cleaned", limit_s=WAIT_S)
    kept = await keeping
    assert ended.well and kept.well and kept.state != "ready"


@asynccontextmanager
async def kueue(standing: Ward, token: Path, tmp_path: Path, *, acts_for: int) -> AsyncIterator[tuple[SmallApi, Any]]:
    api = SmallApi()
    api.checks = [
        {"metadata": {"name": "mover"}, "spec": {"controllerName": CONTROLLER}},
        {"metadata": {"name": "other"}, "spec": {"controllerName": "somebody/else"}},
    ]
    service_account = tmp_path / "service-account"
    await asyncio.to_thread(service_account.write_text, f"{TOKEN}\n")
    async with TestServer(api.app()) as server, aiohttp.ClientSession() as session:
        broken = Namespace(str(tmp_path / "absent"), acts_for)
        settings = KueueFile(
            cluster="k", url=standing.url, namespaces={"team": Namespace(str(token), acts_for), "broken": broken},
            api=str(server.make_url("/")).rstrip("/"), api_token_file=str(service_account), api_ca_file=None,
        )  # fmt: skip
        yield api, lambda: Controller(settings, Api(settings, session))


async def test_a_workload_is_admitted_when_its_run_is_ready_and_its_run_ends_with_it(
    standing: Ward, client: SyncClient, secret: Callable[..., Path], tmp_path: Path
) -> None:
    """No GPU waits for data: Kueue holds the pods until the check says Ready. Against a small API server of ours."""
    token = secret("scheduler", posix_gid=65534)
    async with kueue(standing, token, tmp_path, acts_for=65534) as (api, controller):
        api.add("train", stage_in='{"expression": "family is not null", "layout": "flat"}')
        api.add("unreserved", stage_in='{"expression": "family is not null"}', reserved=False)
        api.add("plain")
        api.add("typo", stage_in='{"MUSTERMANN": "a"}')
        api.add("named", stage_in='{"expression": "family = \'MUSTERMANN\' and surname = 1"}')
        api.add("absent", stage_in='{"cohort": "MUSTERMANN"}')
        api.add("unknown", stage_in='{"files": ["X", "X"]}')
        api.add("stranger", namespace="elsewhere", stage_in='{"expression": "family is not null"}')
        async with asyncio.timeout(WAIT_S):
            while api.check("train")["state"] == "Pending":
                # each turn by a controller that knows nothing of the one before: it may be killed anywhere
                await controller().turn()
        states = {name: api.check(name)["state"] for name in api.workloads}
        assert states == {
            "train": "Ready", "unreserved": "Pending", "plain": "Rejected", "typo": "Rejected", "unknown": "Rejected",
            "stranger": "Rejected", "named": "Rejected", "absent": "Rejected",
        }  # fmt: skip
        # whoever may look at workloads reads these (D10)
        assert "MUSTERMANN" not in "".join(api.check(name)["message"] for name in api.workloads)
        assert "expression-invalid" in api.check("named")["message"] and "[character" in api.check("named")["message"]
        assert "line 1: malformed" in api.check("unknown")["message"]
        [update] = api.check("train")["podSetUpdates"]
        told = update["annotations"]
        assert update["name"] == "main" and stands(f"{told[RUN_DIR]}/RUN.json")
        run = client.runs.view(told[RUN_ID])
        assert run.state == "ready" and owner(told[OUT_DIR]) == 65534

        api.add("late", stage_in='{"expression": "family is not null"}')
        api.finish("late")  # somebody deactivated it before its run was ready
        api.finish("train")
        async with asyncio.timeout(WAIT_S):
            while {client.runs.view(run.id).state, client.runs.list(limit=1).runs[0].state} != {"cleaned"}:
                await controller().turn()
        # the newest is that of `late`, asked for and given up
        assert client.runs.list(limit=1).runs[0].id != run.id
        assert client.runs.view(run.id).snapshots
        # told once each, however often the controller looks
        told_of = ["absent", "named", "plain", "stranger", "train", "typo", "unknown"]
        assert sorted(name for name, _ in api.applied) == told_of


async def test_nothing_of_one_namespace_ends_the_controller_of_all(
    standing: Ward, client: SyncClient, secret: Callable[..., Path], tmp_path: Path
) -> None:
    """A token file that was never mounted, a workload deleted while it was looked at. And a workload that was preempted
    for longer than its lease lasts comes back to another run: the first one's root is gone."""
    token = secret("scheduler", posix_gid=65534)
    async with kueue(standing, token, tmp_path, acts_for=65534) as (api, controller):
        api.add("broken", namespace="broken", stage_in='{"expression": "family is not null"}')
        api.add("nested", stage_in="[" * 5000)
        api.add("deleted")
        api.gone.add("deleted")
        api.add("train", stage_in='{"expression": "family is not null"}')

        async def admitted() -> str:
            async with asyncio.timeout(WAIT_S):
                while api.check("train")["state"] == "Pending":
                    await controller().turn()
            [update] = api.check("train")["podSetUpdates"]
            return str(update["annotations"][RUN_ID])

        first = await admitted()
        api.preempt("train")
        assert await admitted() == first
        api.preempt("train")
        standing.change("update mover.run set lease_until = now() where id = %s", first)
        await asyncio.to_thread(client.runs.wait, first, until=frozenset({"cleaned"}), timeout_s=WAIT_S)
        second = await admitted()
        assert second != first and client.runs.view(second).state == "ready"
        api.finish("train")
        async with asyncio.timeout(WAIT_S):
            while client.runs.view(second).state != "cleaned":
                await controller().turn()
        assert api.check("broken")["state"] == "Pending"
        assert {name for name, _ in api.applied} == {"nested", "train"}


def test_the_manifests_say_what_the_controller_reads() -> None:
    """A typo in an annotation would leave every workload rejected."""
    said = (ROOT / "integrations" / "kubernetes" / "kueue.yaml").read_text("utf-8")
    documents = {one["kind"]: one for one in yaml.safe_load_all(said)}
    assert documents["AdmissionCheck"]["spec"]["controllerName"] == CONTROLLER
    rules = {verb for rule in documents["ClusterRole"]["rules"] for verb in rule["verbs"]}
    assert rules == {"list", "patch"}
    job = documents["Job"]["spec"]["template"]
    assert "mover/stage-in" in job["metadata"]["annotations"]
    fields = {e["valueFrom"]["fieldRef"]["fieldPath"] for e in job["spec"]["containers"][0]["env"]}
    assert fields == {f"metadata.annotations['{name}']" for name in (RUN_ID, RUN_DIR, OUT_DIR)}


def argo(expression: str, run: str) -> dict[str, Step]:
    """As Argo does it: what stands in `{{}}` is replaced in the template's JSON."""
    text = (ROOT / "integrations" / "templates" / "argo.yaml").read_text("utf-8")
    known = {"inputs.parameters.expression": expression, "inputs.parameters.stage": "train", "workflow.uid": "w1",
             "inputs.parameters.lease": "60", "inputs.parameters.run": run}  # fmt: skip
    steps = {}
    for one in yaml.safe_load(text)["spec"]["templates"]:
        said = json.dumps(one)
        for name, value in known.items():
            said = said.replace(f"{{{{{name}}}}}", json.dumps(value)[1:-1])
        script = json.loads(said)["script"]
        assert "{{" not in said and known["inputs.parameters.expression"] not in script["source"]
        steps[one["name"]] = Step(script["source"], {each["name"]: each["value"] for each in script["env"]})
    return steps


def nextflow(expression: str, run: str) -> dict[str, Step]:
    text = (ROOT / "integrations" / "templates" / "nextflow.nf").read_text("utf-8")
    stage, keep, end = re.findall(r"'''\n(.*?)'''", text, flags=re.S)
    for word, value in (("workflow.sessionId", "n1"), ("workflow.runName", "lazy_darwin"), ("task.process", "STAGE"),
                        ("task.index", "1")):  # fmt: skip
        stage = stage.replace(f"!{{{word}}}", value)
    assert "!{" not in stage
    # what Nextflow does for `env` in an output
    stage += 'printf %s "$RUN" > run; printf %s "$ROOT" > root'
    keep, end = (lines.replace("!{run}", run) for lines in (keep, end))
    return {"stage": Step(stage, stdin=expression), "keep": Step(keep), "end": Step(end)}


@pytest.mark.parametrize("steps_of", [argo, nextflow])
def test_the_shell_of_a_step_template_stages_keeps_and_ends_a_run(
    steps_of: Callable[[str, str], dict[str, Step]], standing: Ward, client: SyncClient, tmp_path: Path
) -> None:
    """Argo and Nextflow do not run here: what is tested is the shell they would run, and Argo's YAML as YAML. An
    expression is no part of that shell."""
    marker = tmp_path / "pasted"
    refused = begin(steps_of(f"family = '\"$(touch {marker})`touch {marker}`'", "")["stage"], standing, tmp_path)
    said, _ = refused.communicate(f"family = '\"$(touch {marker})`touch {marker}`'", timeout=WAIT_S)
    assert refused.returncode != 0 and "expression-invalid" in said and not marker.exists()

    expression = '"family" is not null'
    run_lines(steps_of(expression, "")["stage"], standing, tmp_path)
    root, run = (tmp_path / "root").read_text().strip(), (tmp_path / "run").read_text().strip()
    assert (Path(root) / "RUN.json").exists()
    steps = steps_of(expression, run)
    lease = client.runs.view(run).lease_until
    keeping = begin(
        Step(steps["keep"].lines.replace("run keep", "run keep --every 1"), steps["keep"].environment), standing
    )
    try:
        deadline = monotonic_s() + WAIT_S
        while client.runs.view(run).lease_until <= lease:
            assert monotonic_s() < deadline
            pause(0.1)
        run_lines(steps["end"], standing)
        if steps_of is nextflow:
            assert keeping.wait(WAIT_S) == 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(keeping.pid, signal.SIGKILL)
        keeping.communicate()
    assert client.runs.view(run).state == "cleaned"


def test_the_init_container_and_its_sidecar_hold_a_run_for_their_pod(
    standing: Ward, client: SyncClient, tmp_path: Path
) -> None:
    """Its lines, run as they stand but for the image's paths; and what a real cluster makes of its token: root's file,
    readable by the pod's group, by a process that is not root's."""
    pod = yaml.safe_load((ROOT / "integrations" / "kubernetes" / "init-container.yaml").read_text("utf-8"))["spec"]
    user, secret = pod["securityContext"], pod["volumes"][-1]["secret"]
    assert user["fsGroup"] and user["runAsUser"] and secret["defaultMode"] == 0o440
    stage, keep = (one["args"][0].replace("/run-info", str(tmp_path)) for one in pod["initContainers"])
    client.cohorts.save("prostate", EVERYTHING)
    stage, keep = (lines.replace("mover run", "python -m mover run").replace("@3", "@1") for lines in (stage, keep))
    run_lines(Step(stage, {"POD_UID": "p1"}), standing)
    run = json.loads((tmp_path / "run.json").read_text())["id"]
    client.runs.cancel(run)
    # the sidecar ends when the run does; in the cluster the pod's end ends it
    run_lines(Step(keep.replace("run keep", "run keep --every 1")), standing)
    assert client.runs.wait(run, until=frozenset({"cleaned"}), timeout_s=WAIT_S).state == "cleaned"
