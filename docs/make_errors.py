"""Writes docs/errors.md from mover/errors.py: `python docs/make_errors.py`. A test keeps the two equal."""

from __future__ import annotations

from pathlib import Path

from mover.errors import MoverError, all_errors

HEAD = """\
# Errors

Made from `mover/errors.py` by `docs/make_errors.py`; edit there.

Every failure of the API is `application/problem+json` (RFC 9457) with these fields; the SDK raises the class of its
code again, and the CLI prints the same words and ends with the exit status.

- `code`: stable; programs branch on it. `type` is `urn:mover:error:` and the code.
- `detail`: what happened, in one sentence, without identifiers. `where`: the place, by our own ids.
- `retry`: `never` by itself, `later` as it is, or `elsewhere` (another copy or node).
- `hint`: what a person can do. `details`: lists a person needs whole, such as every offender of a refused run.
- `request`: the id to look for in the log and the audit record.

Where to look first, by the exit status of the command:

| exit | what it is about | look at |
|---|---|---|
| 2 | settings, policies, words of a command | the line it names; `mover doctor`, `mover policy check FOLDER` |
| 3 | what was asked for, by whom, in which state | `details` of the answer; the thing itself, as `mover run show RUN` |
| 4 | a tier or an entry on it | `mover tier list`, `mover doctor --try TIER` |
| 5 | bytes that are not what they should be | `mover verification list`, `mover snapshot check`; then the disks |
| 6 | a pack or table that may not pass | `mover quarantine list` |
| 7 | the catalog, the vault | `mover doctor`; the daemon's log: `journalctl -u mover` |
| 8 | work that was given up or taken over | `mover shard list --state failed` |
| 9 | a step of a pipeline | the daemon's log, by the request's id |
| 10 | the daemon, or an identity provider, does not answer | `systemctl status mover` |
| 11 | only your patience is over: the work goes on | ask again |
| 12 | `mover db status` alone: the database lacks migrations | `mover db migrate --plan` |

| code | class | HTTP | exit | retry | what to do |
|---|---|---|---|---|---|
"""


def page() -> str:
    return HEAD + "".join(_row(error) for error in all_errors())


def _row(error: type[MoverError]) -> str:
    # a class without a docstring of its own is said by its name
    says = " ".join((error.__doc__ or "").split()) if "__doc__" in vars(error) and error.__doc__ else ""
    advice = f"{says} {error.hint}".strip()
    return f"| `{error.code}` | {error.__name__} | {error.status} | {error.exit_status} | {error.retry} | {advice} |\n"


if __name__ == "__main__":
    Path(__file__).with_name("errors.md").write_text(page(), "utf-8")
