"""A job may call its files anything. A name that is no text must neither keep a run from being protected and
cleaned nor break an answer (found: both)."""

from __future__ import annotations

import os

import pytest

from mover.api.problems import answer
from mover.decide.cleanup import plan_cleanup
from mover.errors import NotProtected
from mover.model.names import path_text
from mover.runs.clean import _as_standing
from tests.security.test_run_roots import RUN, out, roots, standing

__all__ = ["out", "roots"]

ODD = os.fsdecode(b"out/bad\xffname")


def test_text_stays_and_what_is_no_text_gets_a_name_of_its_own() -> None:
    assert path_text("out/Größe 1.pt") == "out/Größe 1.pt"
    others = {path_text(ODD), path_text("out/bad\\xffname"), path_text(os.fsdecode(b"out/bad\xfename"))}
    assert len(others) == 3
    for one in others:
        one.encode("utf-8")


@pytest.mark.parametrize("name", [b"bad\xffname", b"link\xff", "Größe".encode()])
def test_an_odd_name_is_judged_like_any_other(roots: object, out: object, name: bytes) -> None:
    """Protected under its escaped name, it is removed under its real one; unprotected it is a stray."""
    folder = os.fsencode(str(out))
    if name.startswith(b"link"):
        os.symlink(b"to\xff", folder + b"/" + name)
    else:
        with open(folder + b"/" + name, "wb") as file:
            file.write(b"weights")
    found = [one for one in standing(roots) if one.path.startswith("out/")]  # type: ignore[arg-type]
    protected = {path_text(found[0].path): found[0].digest or ""}
    [kept] = plan_cleanup(found, manifest={}, artifacts=_as_standing(found, {}))
    [gone] = plan_cleanup(found, manifest={}, artifacts=_as_standing(found, protected))
    assert (kept.action, gone.action) == ("stray", "remove")
    assert os.fsencode(gone.path) == b"out/" + name
    key = roots.move_stray(RUN, gone.path)  # type: ignore[attr-defined]
    assert os.fsencode(key).endswith(name)


async def test_a_problem_is_said_even_when_its_details_cannot_be() -> None:
    from aiohttp.test_utils import make_mocked_request

    error = NotProtected("1 artifact is not proved protected", details=[{"path": ODD}])
    response = answer(error, make_mocked_request("GET", "/"))
    assert response.status == 409 and b"not-protected" in response.body  # type: ignore[operator]
