"""`mover-kueue`: a Kueue AdmissionCheck. A workload is admitted when its run is ready, so no GPU waits for data.

Kueue reserves quota for a workload and asks its admission checks; ours answers `Ready` with the run's root as
annotations of the pods, `Rejected` with the offenders, or lets it wait. The controller keeps nothing: the run of a
workload is known again by its key (cluster, workload's uid), so it may be killed and started anywhere, or twice. A
workload that was preempted and comes back finds its run, or, when its lease lapsed meanwhile, asks for another.

It serves all namespaces, so nothing that one of them says or breaks ends it: a turn goes on with the next workload.

Who a workload acts for is its namespace's, as the controller's own settings say: what a pod's template says of its
user is the word of whoever wrote it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import click
import msgspec
from msgspec import Struct

from mover import policy as yaml_reader
from mover.clock import SYSTEM, Clock
from mover.errors import Conflict, MoverError, RequestError, RequestInvalid, SettingsInvalid
from mover.log import configure, get_logger
from mover.model import wire
from mover.schedulers import words
from mover.schedulers.following import OVER, Following, read_token
from mover.sdk import Client

CONTROLLER = "mover/staging"
STAGE_IN, STAGE_OUT = "mover/stage-in", "mover/stage-out"
RUN_ID, RUN_DIR, OUT_DIR, MANIFEST_ROOT = "mover/run", "mover/run-dir", "mover/out-dir", "mover/manifest-root"
GROUP = "/apis/kueue.x-k8s.io/v1beta1"
FIELD_MANAGER = "mover-kueue"

PAUSE_S, HEARTBEAT_S = 5.0, 60.0
ASK_LIMIT_S, END_LIMIT_S = 5.0, 30.0
AT_ONCE = 16
# of the API server's objects only a page at a time is held
PAGE = 500
REMEMBERED_MAX = 100_000

# what an API server that is away, or answers something else, looks like from here
AWAY = (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError)

log = get_logger("kueue")

S = TypeVar("S", bound=Struct)


class Namespace(Struct, frozen=True, forbid_unknown_fields=True):
    """A namespace is a project: one scheduler's token, and the user of its group whose runs they are."""

    token_file: str
    acts_for: int


class KueueFile(Struct, frozen=True, forbid_unknown_fields=True):
    cluster: str
    url: str
    namespaces: dict[str, Namespace]
    ca_file: str | None = None
    api: str = "https://kubernetes.default.svc"
    api_token_file: str = "/var/run/secrets/kubernetes.io/serviceaccount/token"
    api_ca_file: str | None = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"


class Verdict(Struct, frozen=True):
    """What the check says: `Pending` is not written, because Kueue has written it."""

    state: str
    message: str
    annotations: dict[str, str] = {}


class Api:
    """The three questions we have for the API server."""

    def __init__(self, settings: KueueFile, session: aiohttp.ClientSession) -> None:
        self._settings, self._session = settings, session

    async def checks(self) -> set[str]:
        """Names of the AdmissionChecks that are ours."""
        return {
            one["metadata"]["name"]
            async for page in self._pages(f"{GROUP}/admissionchecks")
            for one in page
            if one["spec"].get("controllerName") == CONTROLLER
        }

    def workloads(self) -> AsyncIterator[list[dict[str, Any]]]:
        return self._pages(f"{GROUP}/workloads")

    async def say(self, workload: dict[str, Any], check: str, verdict: Verdict) -> None:
        """Server-side apply: of the status, only this check is ours."""
        at = workload["metadata"]
        said: dict[str, Any] = {
            "name": check, "state": verdict.state, "message": verdict.message,
            "lastTransitionTime": SYSTEM.now().strftime("%Y-%m-%dT%H:%M:%SZ"),
        }  # fmt: skip
        if verdict.annotations:
            pods = [one["name"] for one in workload["spec"]["podSets"]]
            said["podSetUpdates"] = [{"name": name, "annotations": verdict.annotations} for name in pods]
        document = {
            "apiVersion": "kueue.x-k8s.io/v1beta1", "kind": "Workload",
            "metadata": {"name": at["name"], "namespace": at["namespace"]},
            "status": {"admissionChecks": [said]},
        }  # fmt: skip
        path = f"{GROUP}/namespaces/{at['namespace']}/workloads/{at['name']}/status"
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        kind = {"Content-Type": "application/apply-patch+yaml"}
        await self._ask("PATCH", path, params=query, data=msgspec.json.encode(document), headers=kind)

    async def _pages(self, path: str) -> AsyncIterator[list[dict[str, Any]]]:
        query = {"limit": str(PAGE)}
        while True:
            page = await self._ask("GET", path, params=query)
            yield page["items"]
            after = page.get("metadata", {}).get("continue")
            if not after:
                return
            query = {"limit": str(PAGE), "continue": after}

    async def _ask(self, method: str, path: str, *, headers: dict[str, str] | None = None, **said: Any) -> Any:
        # read each time: service account tokens are short-lived and renewed in their file
        secret = (await asyncio.to_thread(Path(self._settings.api_token_file).read_text)).strip()
        headers = {"Authorization": f"Bearer {secret}", **(headers or {})}
        async with self._session.request(method, self._settings.api + path, headers=headers, **said) as response:
            response.raise_for_status()
            return msgspec.json.decode(await response.read())


class Controller:
    def __init__(self, settings: KueueFile, api: Api, *, clock: Clock = SYSTEM) -> None:
        self._settings, self._api, self._clock = settings, api, clock
        self._beaten: dict[str, float] = {}  # run -> when its lease was last kept
        self._ended: dict[str, None] = {}  # workloads whose run is known to be over, oldest first

    async def serve(self) -> None:
        """For ever; an API server or a daemon that is away is asked again."""
        while True:
            try:
                await self.turn()
            except AWAY as error:
                log.warning("turn failed", error=type(error).__name__)
            await self._clock.sleep(PAUSE_S)

    async def turn(self) -> None:
        """Every workload once, so many at a time."""
        ours = await self._api.checks()
        room = asyncio.Semaphore(AT_ONCE)

        async def one(workload: dict[str, Any]) -> None:
            async with room:
                try:
                    await self._look(workload, ours)
                except MoverError as error:
                    log.warning("workload waits", code=error.code)
                except AWAY as error:
                    log.warning("workload waits", error=type(error).__name__)

        async for page in self._api.workloads():
            async with asyncio.TaskGroup() as group:
                for workload in page:
                    group.create_task(one(workload))

    async def _look(self, workload: dict[str, Any], ours: set[str]) -> None:
        at = workload["metadata"]
        status = workload.get("status", {})
        check = next((one for one in status.get("admissionChecks", []) if one["name"] in ours), None)
        home = self._settings.namespaces.get(at["namespace"])
        if check is None or not _holds(status, "QuotaReserved") and not _holds(status, "Finished"):
            return
        if home is None:
            if check["state"] == "Pending":
                nobodys = Verdict("Rejected", "this namespace is no project of mover")
                await self._api.say(workload, check["name"], nobodys)
            return
        token = await asyncio.to_thread(read_token, Path(home.token_file))
        settings = self._settings
        async with Client(settings.url, token=token, ca_file=settings.ca_file, acts_for=home.acts_for) as client:
            await self._act(workload, check, client)

    async def _act(self, workload: dict[str, Any], check: dict[str, Any], client: Client) -> None:
        if _holds(workload["status"], "Finished"):
            await self._end(workload, check, client)
        elif check["state"] == "Pending":
            verdict = await self._judge(workload, client)
            if verdict.state != "Pending":
                await self._api.say(workload, check["name"], verdict)
        elif check["state"] == "Ready":
            await self._beat(workload, client)

    async def _judge(self, workload: dict[str, Any], client: Client) -> Verdict:
        try:
            run = await self._run(workload, client)
        except MoverError as error:
            # what may go well later waits; the rest will not get better by waiting
            state = "Pending" if error.retry == "later" else "Rejected"
            return Verdict(state, words.told(error, said=_words(workload)))
        if run.state == "ready":
            told = {RUN_ID: run.id, RUN_DIR: run.root, OUT_DIR: run.out, MANIFEST_ROOT: run.manifest_root}
            return Verdict("Ready", f"run {run.id} is ready", {name: value or "" for name, value in told.items()})
        if run.state in OVER:
            return Verdict("Rejected", words.told_of(run))
        return Verdict("Pending", words.told_of(run))

    async def _run(self, workload: dict[str, Any], client: Client) -> wire.Run:
        """The workload's run, by its key: asked for the first time or found again."""
        said = _annotation(workload, STAGE_IN)
        if said is None:
            raise RequestInvalid(f"the pods have no annotation {STAGE_IN}", where="podSets")
        body = _read(said, STAGE_IN, wire.RunRequest)
        key = f"k8s/{self._settings.cluster}/{workload['metadata']['uid']}"
        return await Following(client, limit_s=ASK_LIMIT_S, clock=self._clock).request_living(body, key=key)

    async def _beat(self, workload: dict[str, Any], client: Client) -> None:
        run = _told_run(workload)
        if run and self._clock.monotonic_s() - self._beaten.get(run, float("-inf")) > HEARTBEAT_S:
            _remember(self._beaten, run, self._clock.monotonic_s())
            try:
                await client.runs.heartbeat(run)
            except Conflict:
                return  # finishing already

    async def _end(self, workload: dict[str, Any], check: dict[str, Any], client: Client) -> None:
        """What its pods wrote is protected and its root goes; of a workload that never began, the wait ends."""
        uid = workload["metadata"]["uid"]
        if uid in self._ended:
            return
        following = Following(client, limit_s=END_LIMIT_S, clock=self._clock)
        run = _told_run(workload)
        try:
            if run is None and check["state"] == "Pending":
                run = (await self._run(workload, client)).id
            if run is not None and not await self._over(workload, run, following):
                return
        except RequestError as error:
            if error.retry == "later":
                raise
        _remember(self._ended, uid, None)

    async def _over(self, workload: dict[str, Any], run: str, following: Following) -> bool:
        said = _annotation(workload, STAGE_OUT)
        seen = await following.view(run)
        if seen.state == "ready":
            body = _read(said, STAGE_OUT, wire.FinishRequest) if said else wire.FinishRequest()
            seen = await following.finish(run, body)
        if seen.state != "ready":
            seen = await following.end(run)
        return seen.state in OVER


def _remember(memory: dict[str, Any], key: str, value: Any) -> None:
    memory.pop(key, None)
    memory[key] = value
    while len(memory) > REMEMBERED_MAX:
        memory.pop(next(iter(memory)))


def _read(said: str, name: str, shape: type[S]) -> S:
    try:
        return msgspec.json.decode(said, type=shape)
    except msgspec.DecodeError as error:
        raise RequestInvalid(f"{name}: {words.misfit(error)}", where="podSets") from None
    except RecursionError:
        raise RequestInvalid(f"{name}: it is nested too deeply", where="podSets") from None


def _words(workload: dict[str, Any]) -> object:
    """What its author wrote for us."""
    said = _annotation(workload, STAGE_IN) or "[]"
    try:
        return msgspec.json.decode(said)
    except (msgspec.DecodeError, RecursionError):
        return said


def _holds(status: dict[str, Any], condition: str) -> bool:
    return any(one["type"] == condition and one["status"] == "True" for one in status.get("conditions", []))


def _annotation(workload: dict[str, Any], name: str) -> str | None:
    for pods in workload["spec"]["podSets"]:
        found = pods["template"].get("metadata", {}).get("annotations", {}).get(name)
        if found:
            return str(found)
    return None


def _told_run(workload: dict[str, Any]) -> str | None:
    """The run that this controller has told Kueue of."""
    for check in workload.get("status", {}).get("admissionChecks", []):
        for update in check.get("podSetUpdates", []):
            if run := update.get("annotations", {}).get(RUN_ID):
                return str(run)
    return None


def load(path: Path) -> KueueFile:
    return yaml_reader.read_as(path, KueueFile, then=_more, error=SettingsInvalid)


def _more(written: KueueFile) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if not written.namespaces:
        yield ("namespaces",), "at least one namespace with its token file"


async def _serve(settings: KueueFile) -> None:
    context: Any = ssl.create_default_context(cafile=settings.api_ca_file) if settings.api.startswith("https") else True
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context), timeout=aiohttp.ClientTimeout(total=30)
    ) as session:
        await Controller(settings, Api(settings, session)).serve()


@click.command()
@click.option("--config", type=click.Path(path_type=Path), default="/etc/mover/kueue.yaml", show_default=True)
def command(config: Path) -> None:
    """Answer Kueue's admission checks for mover; see docs/schedulers.md."""
    configure()
    asyncio.run(_serve(load(config)))


def main() -> None:
    command(prog_name="mover-kueue")
