"""Who calls the API without Slurm: plain lines, Airflow's trigger, Kueue's controller, step templates."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp.test_utils import TestServer

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


def run_lines(lines: str, standing: Ward) -> None:
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "MOVER_URL": standing.url,
        "MOVER_TOKEN": standing.site.token.read_text().strip(), "MOVER_TOKEN_FILE": str(standing.site.token),
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines], env=environment, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def stands(path: str) -> bool:
    return os.path.lexists(path)


def owner(path: str) -> int:
    return os.stat(path).st_uid


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_lines_of_the_page_stage_train_protect_and_clean(standing: Ward, client: SyncClient) -> None:
    """Whoever has no scheduler of the ones we know begins by copying these lines."""
    [lines] = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "schedulers.md").read_text("utf-8"), flags=re.S)
    run_lines(lines, standing)
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
        settings = KueueFile(
            cluster="k", url=standing.url, namespaces={"team": Namespace(str(token), acts_for)},
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
        api.add("typo", stage_in='{"cohrt": "a"}')
        api.add("unknown", stage_in='{"files": ["X", "X"]}')
        api.add("stranger", namespace="elsewhere", stage_in='{"expression": "family is not null"}')
        async with asyncio.timeout(WAIT_S):
            while api.check("train")["state"] == "Pending":
                # each turn by a controller that knows nothing of the one before: it may be killed anywhere
                await controller().turn()
        states = {name: api.check(name)["state"] for name in api.workloads}
        assert states == {
            "train": "Ready", "unreserved": "Pending", "plain": "Rejected", "typo": "Rejected", "unknown": "Rejected",
            "stranger": "Rejected",
        }  # fmt: skip
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
        assert sorted(name for name, _ in api.applied) == ["plain", "stranger", "train", "typo", "unknown"]


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


@pytest.mark.parametrize("template", ["argo.yaml", "nextflow.nf"])
def test_the_shell_of_a_step_template_stages_and_ends_a_run(
    template: str, standing: Ward, client: SyncClient, tmp_path: Path
) -> None:
    """Argo and Nextflow do not run here: what is tested is the shell they would run, and Argo's YAML as YAML."""
    text = (ROOT / "integrations" / "templates" / template).read_text("utf-8")
    if template == "argo.yaml":
        steps = {one["name"]: one for one in yaml.safe_load(text)["spec"]["templates"]}
        stage, end = (steps[name]["script"]["source"] for name in ("stage", "end"))
        stage = stage.replace("{{inputs.parameters.expression}}", EVERYTHING).replace("{{workflow.uid}}", "w1")
        end = end.replace("{{inputs.parameters.run}}", "$(cat run)")
    else:
        stage, end = re.findall(r"'''\n(.*?)'''", text, flags=re.S)
        stage = stage.replace("!{expression}", EVERYTHING).replace("!{workflow.sessionId}", "n1")
        end = end.replace("!{run}", "$(cat run)")
    run_lines(f"cd {tmp_path}; {stage}", standing)
    root = (tmp_path / "root").read_text().strip()
    assert (Path(root) / "RUN.json").exists()
    run_lines(f"cd {tmp_path}; {end}", standing)
    assert client.runs.view((tmp_path / "run").read_text().strip()).state == "cleaned"
