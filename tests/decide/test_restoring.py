"""What comes first, what would be lost, and how long it takes: tables of cases."""

from __future__ import annotations

import pytest

from mover.decide.restoring import Loss, Pace, Standing, Wanted, estimate_s, judge, preview_digest, rank

FILE = Standing("file", 10, 500, "mark")


@pytest.mark.parametrize(
    ("path", "first", "place"),
    [
        ("model.pt", ("*.pt",), 0),
        ("deep/model.pt", ("*.pt",), 0),
        ("deep/model.pt", ("deep/*", "*.pt"), 0),
        ("other/model.pt", ("deep/*", "*.pt"), 1),
        ("other/model.pt", ("/other/model.pt",), 0),
        ("Model.PT", ("*.pt",), 1),
        ("a.log", ("*.pt", "*.bin"), 2),
        ("a.log", (), 0),
    ],
)
def test_a_pattern_speaks_of_names_and_one_with_a_slash_of_paths(path: str, first: tuple[str, ...], place: int) -> None:
    assert rank(path, first) == place


@pytest.mark.parametrize(
    ("standing", "wanted", "same", "verdict"),
    [
        (FILE, Wanted("file", 10, 400), True, None),
        (FILE, Wanted("file", 10, 500), False, "differs"),  # equal size and time, other bytes
        (FILE, Wanted("file", 10, 499), False, "newer"),
        (FILE, Wanted("file", 10, 501), False, "differs"),
        (FILE, Wanted("folder", 0, 500), False, "other-kind"),
        (FILE, Wanted("symlink", 0, 500), True, "other-kind"),
        (Standing("folder", 4096, 999, "m"), Wanted("folder", 0, 1), False, None),
    ],
)
def test_only_equal_content_is_no_loss(standing: Standing, wanted: Wanted, same: bool, verdict: str | None) -> None:
    """Size and time never make two files the same."""
    loss = judge(b"x", standing, wanted, same_content=same)
    assert (loss.verdict if loss else None) == verdict
    assert loss is None or loss.reason


def test_any_other_loss_gives_another_digest() -> None:
    """Who agrees to one preview has agreed to no other."""
    one, other = Loss(b"a", "newer", "r", FILE), Loss(b"b", "newer", "r", FILE)
    changed = Loss(b"a", "newer", "r", Standing("file", 10, 500, "another mark"))
    digests = [
        preview_digest(snapshot, path, losses)
        for snapshot, path, losses in (
            ("s", "/", [one, other]), ("s", "/", [one]), ("s", "/", [changed, other]), ("t", "/", [one, other]),
            ("s", "/sub", [one, other]), ("s", "/", []),
        )
    ]  # fmt: skip
    assert len(set(digests)) == len(digests)
    assert preview_digest("s", "/", [other, one]) == digests[0]


def test_the_estimate_is_what_others_took_for_their_work() -> None:
    """Files count beside bytes, and a restore of a few bytes says nothing about the pace of many (it would make years
    of minutes)."""
    many_bytes, many_files = Pace(1, 10 << 30, 20.0), Pace(10_000, 10 << 20, 10.0)
    low, high = estimate_s([many_bytes], files=1, bytes_=20 << 30) or (0, 0)
    assert low == high and 38 < low < 41
    low, _ = estimate_s([many_files], files=20_000, bytes_=20 << 20) or (0, 0)
    assert 13 < low < 20
    low, high = estimate_s([Pace(1, 8, 0.3)], files=1, bytes_=200 << 20) or (0, 0)
    assert high < 1.0, "twice the work of a beginning"
    assert estimate_s([], files=1, bytes_=1) is None and estimate_s([Pace(1, 1, 0.0)], files=1, bytes_=1) is None
    many = [Pace(1, 100, float(seconds)) for seconds in range(1, 21)]
    assert estimate_s(many, files=1, bytes_=100) == (3.0, 18.0)
