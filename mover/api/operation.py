"""One route as a value: what it takes, what it answers, who may. Read this before a noun's module.

A handler is a function from a `Call`, in which everything is parsed, bounded and allowed, to an answer body.
It knows nothing of HTTP. From the same values come the router, the roles matrix and the OpenAPI document.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, Protocol, TypeVar

from msgspec import Meta, Struct

from mover.api.limits import MAX_PAGE, MAX_WAIT_S
from mover.api.rooms import AccessRoom, Rooms
from mover.model.access import Identity

Method = Literal["GET", "POST", "DELETE"]
# ids, numbers, and names with a version
ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9@._-]{0,127}\Z"
B = TypeVar("B")
Q = TypeVar("Q")

ShortQuery = Annotated[str, Meta(min_length=1, max_length=512)]
PathQuery = Annotated[str, Meta(min_length=1, max_length=4096)]
Limit = Annotated[int, Meta(ge=1, le=MAX_PAGE)]


class Query(Struct, frozen=True, forbid_unknown_fields=True):
    """Query parameters; an unknown one is refused, since a misspelt filter would silently widen the
    answer."""


class Planned(Query, frozen=True):
    """With `plan=true` the answer is a Plan and nothing is changed."""

    plan: bool = False


class Paged(Query, frozen=True):
    after: PathQuery | None = None
    limit: Limit = 100


class Waiting(Query, frozen=True):
    """`wait` seconds at most, until the state is another than `state` (or than it was when asked) or
    final."""

    wait: Annotated[float, Meta(ge=0, le=MAX_WAIT_S)] = 0
    state: ShortQuery | None = None


class Until(Protocol):
    def __call__(
        self,
        look: Callable[[], Awaitable[Any]],
        final: frozenset[str],
        changed: Callable[[float], Awaitable[None]] | None = None,
        /,
    ) -> Awaitable[Any]:
        """`changed` returns as soon as another look may be worth it; without it the look is taken every so often."""


@dataclass(frozen=True)
class Call(Generic[B, Q]):
    """One request, parsed and allowed. `until` is the long poll of `waiting`, `streamed` the framing of `streaming`,
    and `last_event` what a stream is to go on after."""

    rooms: Rooms
    access: AccessRoom
    identity: Identity
    body: B
    query: Q
    path: dict[str, str]
    key: str
    request: str
    until: Until
    streamed: Callable[[AsyncIterator[Any]], AsyncIterator[bytes]]
    last_event: int = 0
    # of the answer that whoever asks has already, their ETags
    known: str = ""

    @property
    def project(self) -> str:
        return self.identity.project

    @property
    def actor(self) -> str:
        return self.identity.actor

    @property
    def id(self) -> str:
        """The one path parameter most routes have."""
        return next(iter(self.path.values()))


@dataclass(frozen=True)
class Streamed:
    """An answer that is too long for memory, in the media type that was asked for."""

    lines: AsyncIterator[bytes]
    media_type: str


@dataclass(frozen=True)
class Leaving:
    """An answer with which the browser forgets its session."""

    answer: Any


Handler = Callable[[Call[Any, Any]], Awaitable[Any]]


@dataclass(frozen=True)
class Operation:
    """`key` says what becomes of an Idempotency-Key header."""

    method: Method
    path: str
    action: str
    handler: Handler
    answer: Any
    body: type[Struct] | None = None
    query: type[Query] = Query
    status: int = 200
    key: Literal["required", "accepted"] = "accepted"
    media_type: str = "application/json"
    # other media types that `format` may ask for
    also: tuple[str, ...] = ()
    # what is given away, where that is data: its readers stand in the audit, as its writers do
    reads: str = ""

    @property
    def name(self) -> str:
        """Stable operation id, such as `batches.declare`."""
        return f"{self.handler.__module__.rpartition('.')[2]}.{self.handler.__name__}"

    @property
    def summary(self) -> str:
        return (self.handler.__doc__ or "").strip().splitlines()[0]


class Operations(list[Operation]):
    """The routes of one noun, in the order in which they are matched."""

    def add(self, method: Method, path: str, action: str, answer: Any, **more: Any) -> Callable[[Handler], Handler]:
        def keep(handler: Handler) -> Handler:
            self.append(Operation(method, path, action, handler, answer, **more))
            return handler

        return keep
