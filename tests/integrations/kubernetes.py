"""As much of a Kubernetes API server as Kueue's admission checks need: objects by path, listing in pages, and
server-side apply to a workload's status by one field manager. It is no Kubernetes: what it cannot show is how a real
one merges the applies of several managers."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

TOKEN = "service-account"


class SmallApi:
    def __init__(self) -> None:
        self.checks: list[dict[str, Any]] = []
        self.workloads: dict[str, dict[str, Any]] = {}
        self.applied: list[tuple[str, dict[str, Any]]] = []
        self.page = 2
        self.gone: set[str] = set()  # listed, and deleted before anything could be said of them

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard])
        group = "/apis/kueue.x-k8s.io/v1beta1"
        app.router.add_get(f"{group}/admissionchecks", self._list_checks)
        app.router.add_get(f"{group}/workloads", self._list_workloads)
        app.router.add_patch(f"{group}/namespaces/{{namespace}}/workloads/{{name}}/status", self._apply)
        return app

    def add(self, name: str, *, namespace: str = "team", stage_in: str | None = None, reserved: bool = True) -> None:
        """A workload as Kueue leaves it after it reserved quota: the check pending."""
        annotations = {} if stage_in is None else {"mover/stage-in": stage_in}
        template = {"metadata": {"annotations": annotations}, "spec": {}}
        self.workloads[name] = {
            "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}"},
            "spec": {"podSets": [{"name": "main", "count": 1, "template": template}]},
            "status": {
                "conditions": [{"type": "QuotaReserved", "status": "True" if reserved else "False"}],
                "admissionChecks": [{"name": "mover", "state": "Pending", "message": ""}],
            },
        }

    def check(self, name: str) -> dict[str, Any]:
        return self.workloads[name]["status"]["admissionChecks"][0]

    def preempt(self, name: str) -> None:
        """Evicted for a more important workload, and let in again: what was said of it before is void."""
        self.workloads[name]["status"]["admissionChecks"] = [{"name": "mover", "state": "Pending", "message": ""}]

    def finish(self, name: str) -> None:
        self.workloads[name]["status"]["conditions"].append({"type": "Finished", "status": "True"})

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise web.HTTPUnauthorized
        return await handler(request)

    async def _list_checks(self, request: web.Request) -> web.Response:
        return web.json_response({"items": self.checks, "metadata": {}})

    async def _list_workloads(self, request: web.Request) -> web.Response:
        begin = int(request.query.get("continue", 0))
        names = sorted(self.workloads)[begin : begin + self.page]
        after = str(begin + self.page) if begin + self.page < len(self.workloads) else ""
        items = [self.workloads[name] for name in names]
        return web.json_response({"items": items, "metadata": {"continue": after}})

    async def _apply(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/apply-patch+yaml"
        assert request.query["fieldManager"] and request.query["force"] == "true"
        said = json.loads(await request.text())
        name = request.match_info["name"]
        if name in self.gone:
            raise web.HTTPNotFound
        assert said["metadata"] == {"name": name, "namespace": request.match_info["namespace"]}
        [check] = said["status"]["admissionChecks"]
        self.applied.append((name, check))
        mine = self.workloads[name]["status"]["admissionChecks"]
        mine[:] = [check if one["name"] == check["name"] else one for one in mine]
        return web.json_response(self.workloads[name])
