"""What the daemon serves to browsers: the shell, files for ever, nothing else, under a policy that lets nothing in."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from mover.api.app import OPERATIONS
from mover.api.openapi import document
from mover.api.problems import answer_errors
from mover.web import mount
from mover.web.assets import HOME, load

DESCRIBED = document(OPERATIONS, version="0")
Browser = TestClient[web.Request, web.Application]


@pytest.fixture
async def client() -> AsyncIterator[Browser]:
    app = web.Application(middlewares=[answer_errors])
    mount(app, DESCRIBED)
    async with TestClient(TestServer(app)) as opened:
        yield opened


async def test_every_address_below_ui_is_the_shell_and_the_root_leads_there(client: Browser) -> None:
    """A link to anything can be sent, and opened without having been anywhere before."""
    home = await client.get("/", allow_redirects=False)
    assert (home.status, home.headers["Location"]) == (302, "/ui/")
    shells = [
        await (await client.get(path)).text() for path in ("/ui/", "/ui/runs/run-1?tab=proofs", "/ui/no/such/page")
    ]
    assert len(set(shells)) == 1 and "{base}" not in shells[0]
    named = re.findall(r'(?:href|src)="(/ui/static/[^"]+)"', shells[0])
    assert len(named) > 20
    for address in named:
        assert (await client.get(address)).status == 200, address


async def test_nothing_of_a_page_is_inline_and_its_policy_lets_nothing_else_run(client: Browser) -> None:
    answer = await client.get("/ui/")
    text, policy = await answer.text(), answer.headers["Content-Security-Policy"]
    assert "<script>" not in text and "<style" not in text and not re.search(r"\son\w+=|style=", text)
    assert "unsafe" not in policy and "http" not in policy
    told = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert told["default-src"] == told["frame-ancestors"] == told["base-uri"] == "'none'"
    assert told["script-src"] == told["style-src"] == told["connect-src"] == told["form-action"] == "'self'"
    wanted = {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"}
    assert {name: answer.headers[name] for name in wanted} == wanted


async def test_files_are_kept_for_ever_and_the_shell_is_asked_for_each_time(client: Browser) -> None:
    """After an update the shell names other addresses, so no old module meets a new one."""
    held = load(DESCRIBED)
    shell, file = await client.get("/ui/"), await client.get(f"/ui/static/{held.version}/app.js")
    assert shell.headers["Cache-Control"] == "no-cache" and "immutable" in file.headers["Cache-Control"]
    assert file.content_type == "text/javascript"
    again = await client.get("/ui/", headers={"If-None-Match": shell.headers["ETag"]})
    assert (again.status, await again.read()) == (304, b"")
    other = await client.get("/ui/static/0000000000000000/app.js")
    assert other.status == 404 and "another version" in (await other.json())["detail"]


async def test_what_is_packed_unpacks_to_the_same(client: Browser) -> None:
    held = load(DESCRIBED)
    address = f"/ui/static/{held.version}/vendor/uplot.js"
    packed = await client.get(address, headers={"Accept-Encoding": "gzip"})
    plain = await client.get(address, headers={"Accept-Encoding": "identity"})
    assert packed.headers["Content-Encoding"] == "gzip" and "Content-Encoding" not in plain.headers
    assert packed.headers["ETag"] != plain.headers["ETag"]
    assert await packed.read() == await plain.read() == (HOME / "vendor" / "uplot.js").read_bytes()


OUTSIDE = (
    "../serve.py",
    "..%2fserve.py",
    "%2e%2e/serve.py",
    "lib/../../serve.py",
    "/etc/passwd",
    "lib/",
    "vendor/x.md",
)


@pytest.mark.parametrize("name", OUTSIDE)
async def test_no_name_leads_out_of_what_is_served(client: Browser, name: str) -> None:
    """Files are keys of a dict; a path of this machine is never made from a request."""
    answer = await client.get(f"/ui/static/{load(DESCRIBED).version}/{name}")
    text = await answer.text()
    assert "Serving the pages" not in text and "root:" not in text
    # what a client folds away itself lands on the shell, or nowhere
    assert answer.status == 404 or answer.content_type == "text/html"


def test_vendored_files_are_as_they_were_fetched() -> None:
    """A changed byte of somebody else's code is nobody's intention."""
    told = json.loads((HOME / "vendor" / "VENDORED.json").read_text())
    files = {file["file"]: file["sha256"] for package in told["packages"] for file in package["files"]}
    found = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (HOME / "vendor").iterdir()}
    found.pop("VENDORED.json")
    assert found == files
    for package in told["packages"]:
        assert package["version"] in package["origin"] and package["licence"]
        assert f"{package['name']}.LICENSE" in files


def test_pages_know_every_operation_as_openapi_tells_it() -> None:
    text = load(DESCRIBED).files["lib/operations.js"].body.decode()
    known = json.loads(text[text.index("{") : text.rindex("}") + 1])
    assert set(known) == {operation.name for operation in OPERATIONS}
    clean = known["runs.clean"]
    assert (clean["method"], clean["path"], clean["action"]) == ("POST", "/v1/runs/{id}/clean", "runs.clean")
    assert "plan" in clean["query"] and clean["command"].startswith("mover run clean")


def test_what_pages_ask_for_exists() -> None:
    """Names of operations and modules are strings in a browser: here each is looked up, before somebody clicks."""
    known = {operation.name for operation in OPERATIONS}
    asked = re.compile(r'(?:call|useAsk|useEvents|may|ask)\(\s*"([\w.]+)"|operation="([\w.]+)"|needs: "([\w.]+)"')
    imported = re.compile(r'(?:from|import\()\s*"(\.[^"]+)"')
    held = load(DESCRIBED).files
    for path in sorted((HOME / "static").rglob("*.js")):
        text = path.read_text()
        names = {name for found in asked.findall(text) for name in found if name}
        assert names <= known, path.name
        for module in imported.findall(text):
            target = (path.parent / module).resolve()
            inside = target.relative_to(HOME).as_posix().removeprefix("static/")
            assert inside in held, (path.name, module)


DOORS = (
    "innerHTML", "outerHTML", "insertAdjacentHTML", "dangerouslySet", "document.write", "eval(", "new Function",
)  # fmt: skip


def test_pages_set_no_markup_and_reach_nowhere_else() -> None:
    """Text stays text: there is no door by which a value becomes markup or code."""
    for path in sorted((HOME / "static").rglob("*.js")):
        text = path.read_text()
        for door in DOORS:
            assert door not in text, (path.name, door)
        assert not re.search(r"https?://", text), path.name
