"""The two clients: `Client` for code that runs in an event loop, `SyncClient` for everything else."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from types import TracebackType
from typing import Any

from mover.model import wire
from mover.sdk import nouns
from mover.sdk.events import changes
from mover.sdk.transport import Ask, Transport

_END = object()


class Client:
    """A daemon's nouns. Use it as `async with Client(url, token=…) as client`, or call `close`."""

    def __init__(
        self, url: str, *, token: str | None = None, ca_file: str | None = None, acts_for: int | None = None,
        project: str | None = None,
    ) -> None:  # fmt: skip
        self._transport = Transport(url, token=token, ca_file=ca_file, acts_for=acts_for, project=project)
        self.url = url
        self.batches = nouns.Batches(self._transport)
        self.quarantine = nouns.Quarantine(self._transport)
        self.adoptions = nouns.Adoptions(self._transport)
        self.rulings = nouns.Rulings(self._transport)
        self.scans = nouns.Scans(self._transport)
        self.slides = nouns.Slides(self._transport)
        self.records = nouns.Records(self._transport)
        self.cohorts = nouns.Cohorts(self._transport)
        self.runs = nouns.Runs(self._transport)
        self.transfers = nouns.Transfers(self._transport)
        self.verifications = nouns.Verifications(self._transport)
        self.archives = nouns.Archives(self._transport)
        self.folders = nouns.Folders(self._transport)
        self.snapshots = nouns.Snapshots(self._transport)
        self.shortenings = nouns.Shortenings(self._transport)
        self.turns = nouns.Turns(self._transport)
        self.keys = nouns.Keys(self._transport)
        self.restores = nouns.Restores(self._transport)
        self.vault = nouns.Vault(self._transport)
        self.dumps = nouns.Dumps(self._transport)
        self.audit = nouns.Audit(self._transport)
        self.answers = nouns.Answers(self._transport)
        self.policies = nouns.Policies(self._transport)
        self.oversight = nouns.Oversight(self._transport)
        self.plots = nouns.Plots(self._transport)
        self.tags = nouns.Tags(self._transport)
        self.tokens = nouns.Tokens(self._transport)
        self.accounts = nouns.Accounts(self._transport)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._transport.close()

    async def tiers(self) -> list[wire.Tier]:
        return (await self._get("/v1/tiers", wire.Tiers)).tiers

    async def who(self) -> wire.Session:
        """Who one is here, in which project, and what one may there."""
        return await self._transport.send(Ask("GET", "/v1/session"), wire.Session)

    async def status(self) -> wire.Status:
        return await self._get("/v1/status", wire.Status)

    async def reload(self) -> wire.Reload:
        """The daemon takes what its files say now. The same again changes nothing more."""
        return await self._transport.send(Ask("POST", "/v1/reload", repeatable=True), wire.Reload)

    async def health(self) -> wire.Health:
        return await self._get("/healthz", wire.Health)

    async def metrics(self) -> str:
        return await self._get("/metrics", str)

    async def openapi(self) -> dict[str, Any]:
        return await self._get("/openapi.json", dict[str, Any])

    async def events(self, *, after: int = 0) -> AsyncGenerator[wire.Changed | wire.ChangesReset, None]:
        """What changed in the project after event `after`, then each change as it comes; without end."""
        async with aclosing(changes(self._transport, after=after)) as heard:
            async for one in heard:
                yield one

    async def _get(self, path: str, answer: Any) -> Any:
        return await self._transport.send(Ask("GET", path, repeatable=True), answer)


class SyncClient:
    """`Client` without await: the same nouns and methods, run in a loop of its own thread, so that it works
    in a notebook, whose thread already has a loop. Use it with `with`, or call `close`."""

    batches: Any
    quarantine: Any
    adoptions: Any
    rulings: Any
    scans: Any
    slides: Any
    records: Any
    cohorts: Any
    runs: Any
    transfers: Any
    verifications: Any
    archives: Any
    folders: Any
    snapshots: Any
    shortenings: Any
    turns: Any
    keys: Any
    restores: Any
    vault: Any
    dumps: Any
    audit: Any
    answers: Any
    policies: Any
    oversight: Any
    plots: Any
    tags: Any
    tokens: Any
    accounts: Any

    def __init__(
        self, url: str, *, token: str | None = None, ca_file: str | None = None, project: str | None = None
    ) -> None:
        self._client = Client(url, token=token, ca_file=ca_file, project=project)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mover-sdk", daemon=True)
        self._thread.start()
        for name, noun in vars(self._client).items():
            if isinstance(noun, nouns.Noun):
                setattr(self, name, _SyncNoun(noun, self._run))

    def __enter__(self) -> SyncClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def tiers(self) -> list[wire.Tier]:
        return self._run(self._client.tiers())

    def who(self) -> wire.Session:
        return self._run(self._client.who())

    def status(self) -> wire.Status:
        return self._run(self._client.status())

    def reload(self) -> wire.Reload:
        return self._run(self._client.reload())

    def health(self) -> wire.Health:
        return self._run(self._client.health())

    def metrics(self) -> str:
        return self._run(self._client.metrics())

    def openapi(self) -> dict[str, Any]:
        return self._run(self._client.openapi())

    def events(self, *, after: int = 0) -> Iterator[wire.Changed | wire.ChangesReset]:
        return _iterated(self._run, self._client.events(after=after))

    def _run(self, work: Any) -> Any:
        """An interrupted caller (Ctrl-C) does not leave the request running behind its back."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


class _SyncNoun:
    def __init__(self, noun: nouns.Noun, run: Callable[[Any], Any]) -> None:
        self._noun = noun
        self._run = run

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._noun, name)
        if not callable(method):
            return method
        if inspect.isasyncgenfunction(method):
            return lambda *args, **kwargs: _iterated(self._run, method(*args, **kwargs))
        return lambda *args, **kwargs: self._run(method(*args, **kwargs))


def _iterated(run: Callable[[Any], Any], items: AsyncGenerator[Any, None]) -> Iterator[Any]:
    """One after the other, as the caller asks for them; who stops asking closes it."""

    async def following() -> Any:
        return await anext(items, _END)

    try:
        while (item := run(following())) is not _END:
            yield item
    finally:
        run(items.aclose())
