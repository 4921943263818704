"""Fetches what `mover/web/vendor` holds from the npm registry: `python docs/make_vendored.py` (needs npm, a network).

For maintainers, never at run time. Browsers without a build step need relative imports, so a few files are changed
mechanically on the way; `VENDORED.json` holds the digest of each file as published and as it is served. Look at the
difference before you commit: a registry can be wrong.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

HOME = Path(__file__).parents[1] / "mover" / "web" / "vendor"
Change = Callable[[bytes], bytes]


class File(NamedTuple):
    published: str
    served: str
    change: str = ""


class Package(NamedTuple):
    name: str
    version: str
    licence: str
    files: tuple[File, ...]


CHANGES: dict[str, Change] = {
    "": lambda text: text,
    "the import of preact names the file beside it": lambda text: text.replace(b'from"preact"', b'from"./preact.js"'),
    "exported as a module": lambda text: text.rstrip() + b"\nexport default uPlot;\n",
}

PACKAGES = (
    Package("preact", "11.2.0", "MIT", (
        File("dist/preact.mjs", "preact.js"),
        File("hooks/dist/hooks.mjs", "hooks.js", "the import of preact names the file beside it"),
        File("LICENSE", "preact.LICENSE"),
    )),
    Package("htm", "3.1.1", "Apache-2.0", (File("dist/htm.mjs", "htm.js"), File("LICENSE", "htm.LICENSE"))),
    Package("uplot", "1.6.32", "MIT", (
        File("dist/uPlot.iife.min.js", "uplot.js", "exported as a module"),
        File("dist/uPlot.min.css", "uplot.css"),
        File("LICENSE", "uplot.LICENSE"),
    )),
    Package("openseadragon", "6.1.1", "BSD-3-Clause", (
        File("build/openseadragon/openseadragon.min.js", "openseadragon.js"),
        File("LICENSE.txt", "openseadragon.LICENSE"),
    )),
)  # fmt: skip


def main() -> None:
    told = [vendor(package) for package in PACKAGES]
    (HOME / "VENDORED.json").write_text(json.dumps({"packages": told}, indent=2) + "\n")


def vendor(package: Package) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as scratch:
        wanted = f"{package.name}@{package.version}"
        command = ["npm", "pack", wanted, "--json", "--pack-destination", scratch]
        said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)[0]
        with tarfile.open(Path(scratch) / said["filename"]) as tar:
            files = [_write(tar, file) for file in package.files]
    return {
        "name": package.name, "version": package.version, "licence": package.licence,
        "origin": f"https://registry.npmjs.org/{package.name}/-/{said['filename']}",
        "integrity": said["integrity"], "files": files,
    }  # fmt: skip


def _write(tar: tarfile.TarFile, file: File) -> dict[str, str]:
    member = tar.extractfile(f"package/{file.published}")
    if member is None:
        sys.exit(f"{file.published} is not in the package")
    published = member.read()
    served = CHANGES[file.change](published)
    if file.change and served == published:
        sys.exit(f"{file.published} is not as expected: {file.change}")
    # nobody serves source maps here; a browser's tools would ask for them
    served = re.sub(rb"\n//# sourceMappingURL=\S+\s*$", b"\n", served)
    (HOME / file.served).write_bytes(served)
    told = {
        "file": file.served, "published": file.published, "published_sha256": hashlib.sha256(published).hexdigest(),
        "sha256": hashlib.sha256(served).hexdigest(),
    }  # fmt: skip
    return told | ({"change": file.change} if file.change else {})


if __name__ == "__main__":
    main()
