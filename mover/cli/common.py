"""What the commands share: finding the daemon, and the options every one of them has."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from msgspec import Struct

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.sdk import SyncClient
    from mover.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])


class Where(Struct, frozen=True):
    """What was said on the command line about which daemon is meant; None defers to the environment, then to the
    settings of this machine."""

    config: str | None = None
    url: str | None = None
    token_file: str | None = None
    ca_file: str | None = None
    project: str | None = None

    def config_path(self) -> Path:
        from mover.settings import read_environment

        return Path(self.config) if self.config else read_environment().config

    def settings(self) -> Settings:
        from mover.settings import load

        return load(self.config_path())

    def connect(self) -> SyncClient:
        """The daemon by URL, or by the settings of this machine: its local socket, else its TCP address."""
        from mover.errors import SettingsInvalid
        from mover.sdk import SyncClient
        from mover.settings import read_environment

        environment = read_environment()
        url = self.url or environment.url
        token = _read_token(Path(self.token_file) if self.token_file else environment.token_file)
        if url is None:
            if not self.config_path().exists():
                raise SettingsInvalid(
                    "which daemon?", where=str(self.config_path()),
                    hint="Pass --url and --token-file (or MOVER_URL and MOVER_TOKEN_FILE), or --config its mover.yaml.",
                )  # fmt: skip
            settings = self.settings()
            url = local_url(settings)
            if token is None and not url.startswith("unix:"):
                token = _read_token(settings.state_dir / "admin-token")
        return SyncClient(url, token=token, ca_file=self.ca_file, project=self.project)


def local_url(settings: Settings) -> str:
    """Where the daemon of these settings answers: what it wrote down at its start (port 0 is known only then),
    else what it was told."""
    try:
        written = (settings.state_dir / "urls").read_text("utf-8").split()
    except OSError:
        written = []
    local = [url for url in written if url.startswith("unix:")]
    if written:
        return (local or written)[0]
    listen = settings.listen
    if listen.unix is not None:
        return f"unix://{listen.unix.absolute()}"
    host = f"[{listen.host}]" if listen.host and ":" in listen.host else listen.host
    return f"{'https' if listen.tls else 'http'}://{host}:{listen.port}"


def _read_token(path: Path | None) -> str | None:
    from mover.errors import SettingsInvalid

    if path is None:
        return None
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsInvalid(
            "the token file cannot be read", where=str(path), hint="Name one that is yours with --token-file."
        ) from error


def with_output(function: F) -> F:
    """Adds --json and passes `out`."""

    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @functools.wraps(function)
    def wrapped(*args: Any, as_json: bool, **kwargs: Any) -> Any:
        from mover.cli.output import Output

        return function(*args, out=Output(as_json), **kwargs)

    return wrapped  # type: ignore[return-value]


def with_client(function: F) -> F:
    """Adds --json and passes `out` and `mover`, a client that is closed afterwards."""

    @with_output
    @click.pass_context
    @functools.wraps(function)
    def wrapped(ctx: click.Context, *args: Any, out: Output, **kwargs: Any) -> Any:
        with ctx.obj.connect() as mover:
            return function(*args, mover=mover, out=out, **kwargs)

    return wrapped  # type: ignore[return-value]


class Moment(click.ParamType):
    """A time as the tables print it, as --json does, or a day; UTC where no zone is said."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            seen = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"{value!r} is no time; say 2026-11-22, '2026-11-22 18:00:00' or 2026-11-22T18:00:00+01:00", param, ctx
            )
        return seen if seen.tzinfo else seen.replace(tzinfo=UTC)


class Span(click.ParamType):
    """A number of seconds as people say it: 180d, 26w, 2y; seconds where no unit is said."""

    name = "span"
    units: Mapping[str, int] = {"": 1, "s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 31_557_600}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"([0-9]{1,10})([a-z]*)", str(value))
        if found is None or found[2] not in self.units:
            self.fail(f"{value!r} is no span of time; say 180d, 26w or 2y", param, ctx)
        return int(found[1]) * self.units[found[2]]


class Bytes(click.ParamType):
    """A size as people say it: 500MiB, 2GiB, 10GB; bytes where no unit is said."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"([0-9]{1,15})(?:([kMGT])(i?)B?|B)?", str(value))
        if found is None:
            self.fail(f"{value!r} is no size; say 500MiB, 2GiB or 10GB", param, ctx)
        return int(found[1]) * (1024 if found[3] else 1000) ** (" kMGT".index(found[2]) if found[2] else 0)


def _to_its_end(ctx: click.Context, param: click.Parameter, seen: datetime | None) -> datetime | None:
    """Tables print whole seconds: what they say was recorded at a time is on record at that time."""
    return seen and (seen if seen.microsecond else seen.replace(microsecond=999_999))


as_of_option = click.option(
    "--as-of", type=Moment(), callback=_to_its_end, metavar="TIME", help="As it was on record at this time, UTC."
)
plan_option = click.option("--plan", is_flag=True, help="Show what would be done and why; change nothing.")
wait_option = click.option("--wait", is_flag=True, help="Stay until it is done.")
timeout_option = click.option("--timeout", "timeout_s", type=float, metavar="SECONDS", help="Wait no longer than this.")
limit_option = click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="Lines.")
after_option = click.option("--after", help="Go on after this line: the `next` of the page before.")


def report_options(function: F) -> F:
    """In what form a report comes, and where to."""
    format_ = click.option(
        "--format", "format_", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True,
        help="JSON lines, or CSV whose cells no spreadsheet takes for formulas.",
    )  # fmt: skip
    output = click.option(
        "--output", type=click.Path(dir_okay=False, path_type=Path), help="A file instead of the terminal."
    )
    return format_(output(function))


def write_report(out: Output, fetch: Callable[[Callable[[bytes], object]], int], output: Path | None) -> None:
    """Pieces of a report as they come: to the terminal, or to a file whose size is told."""
    from mover.cli.output import shown

    if output is None:
        plain = shown()
        fetch(lambda piece: click.echo(plain(piece), nl=False))
        return
    with open(output, "wb") as file:
        count = fetch(file.write)
    out.facts({"file": str(output), "bytes": count}, [("file", output), ("bytes", count)])
