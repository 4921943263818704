"""Everything a browser may load, read once into memory: a request names a key of a dict and never a path.

All files stand below one version, the digest over all of them. So modules import each other by relative paths, every
answer may be kept for ever, and after an update not one old file is mixed with a new one.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from mover.errors import ConfigError

HOME = Path(__file__).parent
SHELL = "index.html"
OPERATIONS = "lib/operations.js"
TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".html": "text/html; charset=utf-8",
    ".LICENSE": "text/plain; charset=utf-8",
    ".json": "application/json",
}
# what the first page needs whatever it is; the browser asks for all of it at once instead of one import after another
EARLY = ("vendor/preact.js", "vendor/hooks.js", "vendor/htm.js", "lib/", "parts/")
# smaller ones fit into a packet anyway
PACK_BYTES = 1024


class Asset(Struct, frozen=True):
    body: bytes
    packed: bytes  # gzip; empty where it is not worth it
    media_type: str
    etag: str


class Assets(Struct, frozen=True):
    """`files` by their path in a URL, below the version; `shell` is the page that every path below /ui/ answers."""

    version: str
    files: dict[str, Asset]
    shell: Asset


def load(described: dict[str, Any], home: Path = HOME) -> Assets:
    """`described` is the OpenAPI document: from it is made what the pages know of the API."""
    bodies = dict(_read(home)) | {OPERATIONS: _operations(described)}
    digest = hashlib.sha256()
    for name in sorted(bodies):
        digest.update(b"%d %s %d " % (len(name), name.encode(), len(bodies[name])) + bodies[name])
    version = digest.hexdigest()[:16]
    page = _shell(bodies.pop(SHELL).decode(), version, sorted(bodies))
    files = {name: _asset(body, Path(name).suffix) for name, body in bodies.items()}
    return Assets(version=version, files=files, shell=_asset(page.encode(), ".html"))


def _read(home: Path) -> Iterator[tuple[str, bytes]]:
    for folder, prefix in ((home / "static", ""), (home / "vendor", "vendor/")):
        for path in sorted(folder.rglob("*")):
            if path.suffix in TYPES and path.is_file():
                yield prefix + path.relative_to(folder).as_posix(), path.read_bytes()


def _operations(described: dict[str, Any]) -> bytes:
    """Name -> method, path, roles, command, and whether it can be planned: all the pages need of the document."""
    found = {}
    for path, methods in described["paths"].items():
        for method, told in methods.items():
            if "x-mover-roles" not in told:
                continue
            query = [one["name"] for one in told["parameters"] if one["in"] == "query"]
            found[told["operationId"]] = {
                "method": method.upper(), "path": path, "summary": told["summary"],
                "action": told["x-mover-action"], "roles": told["x-mover-roles"],
                "command": told.get("x-mover-command", ""), "query": query,
            }  # fmt: skip
    text = json.dumps(found, separators=(",", ":"), sort_keys=True)
    return f"// Made from the OpenAPI document when the daemon started.\nexport const OPERATIONS = {text};\n".encode()


def _shell(text: str, version: str, names: list[str]) -> str:
    base = f"/ui/static/{version}"
    early = [name for name in names if name.endswith(".js") and name.startswith(EARLY)]
    links = "\n".join(f'  <link rel="modulepreload" href="{base}/{name}">' for name in early)
    if "{base}" not in text or "  <!-- early -->" not in text:
        raise ConfigError("the shell of the pages is damaged", where=SHELL, hint="Install the package again.")
    return text.replace("{base}", base).replace("  <!-- early -->", links)


def _asset(body: bytes, suffix: str) -> Asset:
    packed = gzip.compress(body, 9, mtime=0) if len(body) > PACK_BYTES else b""
    etag = hashlib.sha256(body).hexdigest()[:32]
    return Asset(body=body, packed=packed, media_type=TYPES[suffix], etag=etag)
