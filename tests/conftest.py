"""Fixtures every test may ask for. The catalog is always the real thing: there is no fake of it."""

from __future__ import annotations

import fcntl
import gc
import shutil
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from mover.access import passwords
from mover.catalog.database import Database
from mover.catalog.postgres import EmbeddedServer
from mover.deid.deidentify import slide_sandbox
from mover.deid.vault import Vault, VaultKey
from mover.demo.seaweed import Seaweed
from mover.repository import crypto, locks
from mover.sandbox import Sandbox
from tests.support import summary
from tests.support.postgres import Dsns, add_tiers, fresh_database, running_server
from tests.support.seaweed import shared_weed

# Laws are tried with the same examples each time, and how long one takes says how busy the machine is. `make soak`
# draws others each time, and ten times as many where a test does not say how many.
settings.register_profile("fast", deadline=None, derandomize=True)
settings.register_profile("soak", deadline=None, derandomize=False, max_examples=1000)
settings.load_profile("fast")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[[str, Callable[[Path], None]], Path]:
    """A folder that the first of all test processes makes and the others find."""
    base = tmp_path_factory.getbasetemp()
    home = base if worker_id == "master" else base.parent

    def make(name: str, fill: Callable[[Path], None]) -> Path:
        folder, done = home / name, home / f"{name}.done"
        with open(home / f"{name}.lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[EmbeddedServer]:
    """The session's embedded PostgreSQL, shared by all workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    with running_server(base if worker_id == "master" else base.parent) as running:
        yield running


@pytest.fixture
def dsns(server: EmbeddedServer) -> Iterator[Dsns]:
    """A fresh, migrated database with the projects `demo` and `other`, as DSNs by role."""
    with fresh_database(server) as made:
        yield made


@pytest.fixture
async def database(dsns: Dsns) -> AsyncIterator[Database]:
    """A fresh database under the daemon's own role."""
    opened = await Database.open(dsns.daemon, name="test", max_size=4)
    yield opened
    await opened.close()


@pytest.fixture
def tier_rows(dsns: Dsns) -> None:
    """Rows for the tiers intake, archive, flash and protect; ask for it beside `database`."""
    add_tiers(dsns)


@pytest.fixture
async def vault(dsns: Dsns) -> AsyncIterator[Vault]:
    """The vault of site `ward`, under its own role and with a key of its own."""
    opened = await Database.open(dsns.vault, name="test-vault", max_size=4)
    yield Vault(opened, VaultKey(bytes(range(32))), site="ward", node="n1")
    await opened.close()


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Seaweed]:
    """The session's object store, shared by all workers of pytest-xdist; `tests.support.seaweed.object_tier` makes
    a tier in a prefix of its own."""
    base = tmp_path_factory.getbasetemp()
    with shared_weed(base if worker_id == "master" else base.parent) as running:
        yield running


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """The process's own sandbox for slides, objects and tables: its zygote loads every parser once."""
    with slide_sandbox(max_children=2) as ready:
        yield ready


@pytest.fixture(scope="session", autouse=True)
def _cheap_keys() -> Iterator[None]:
    """The scrypt cost is stored in each key file, so a cheap one is as valid, for restic too; and who waits whether
    another client locks at this moment proves nothing by waiting longer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crypto, "SCRYPT_N", 1024)
        patch.setattr(crypto, "SCRYPT_P", 1)
        patch.setattr(passwords, "COST", passwords.Cost(1, 64, 1))  # so does this one, with each account
        patch.setattr(locks, "SETTLE_S", 0.005)
        yield


# by the beginning of their names: they take longest
FIRST = (
    "tests/system/", "tests/test_house.py::test_style_and_types", "tests/bench/test_smoke.py",
    "tests/walk/test_kills.py", "tests/deid/test_samples.py", "tests/catalog/test_postgres.py",
    "tests/transfer/test_carrier.py::test_kill_9",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests begin first, or at the end one process works on and the others have nothing left to do."""
    items.sort(key=lambda item: not item.nodeid.startswith(FIRST))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Thousands of collected tests live as long as the process: the collector need not look at them again and again,
    nor while they are collected."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was in flight at each kill, what each skip wants, and how long the long ones took."""
    stats = terminalreporter.stats
    reports = [*stats.get("passed", []), *stats.get("failed", [])]
    all_of_them = [one for found in stats.values() for one in found if isinstance(one, pytest.TestReport)]
    for title, lines in (
        ("killed, and what was in flight", list(summary.kill_lines(reports))),
        ("skipped, and what it wants", list(summary.skip_lines(stats.get("skipped", [])))),
        ("long tests, and what they took", list(summary.soak_lines(all_of_them))),
    ):
        if lines:
            terminalreporter.section(title)
            for line in lines:
                terminalreporter.write_line(line)
