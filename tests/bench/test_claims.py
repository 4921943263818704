"""From tallies to claims, to what is kept, drawn and printed."""

from __future__ import annotations

import io
import runpy
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from rich.console import Console

from bench import __main__ as command
from bench import pictures, results, tables
from bench.context import SMOKE, Context, Judged, present
from bench.measure import Run, Tally
from bench.peers import Peer
from bench.places import NoRoom, demand_room
from bench.results import Claim, Results, Stamp

ROOT = Path(__file__).parents[2]
LIMITS = {"device-write": 4.0, "device-copy": 2.0}


def a_run(seconds: float, *, others: float = 0.0) -> Run:
    return Run(seconds, cpu_s=seconds / 2, server_cpu_s=0, memory_mb=10 * seconds, others=others, load=0)


def judged(context: Context, tallies: list[Tally]) -> Judged:
    return Judged(
        context=context,
        tallies={tally.tool: tally for tally in tallies},
        amount=6.0,
        unit="GB/s",
        cpu_amount=6.0,
        cpu_unit="CPU s/GB",
        condition="warm source",
        place="ext4",
        missing={"fpsync": "not installed: fpart"},
        load_before=0.1,
    )


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(tmp_path, SMOKE, dict(LIMITS), lambda line: None)


OURS = Tally("ours", tuple(a_run(seconds) for seconds in (2.0, 9.0, 3.0)))
CP = Tally("cp", (a_run(4.0), a_run(4.0)))
RSYNC = Tally("rsync", (a_run(6.0, others=0.9), a_run(6.0, others=0.8)))


def test_a_claim_is_the_ratio_of_medians_to_the_best_of_its_rivals(context: Context) -> None:
    """One slow round must not lose a race, nor a weak rival win one."""
    judged(context, [OURS, CP, RSYNC]).claim(
        "P1", "slides", tool="ours", against=["cp", "rsync"], goal=1.2, limit="device-write"
    )
    (claim,) = context.finished
    assert (claim.ours, claim.peers) == (2.0, {"cp": 1.5, "rsync": 1.0})
    assert (claim.against, claim.ratio, claim.met) == ("cp", 1.333, True)
    assert (claim.limit, claim.limit_name) == (4.0, "device-write")
    assert claim.rounds["ours"] == [2.0, 9.0, 3.0]
    assert claim.missing == {"fpsync": "not installed: fpart"}


def test_a_claim_may_stand_against_a_limit_or_against_less_cpu(context: Context) -> None:
    found = judged(context, [OURS, CP])
    found.claim("P2", "cold", tool="ours", against=["device-copy"], goal=0.9)
    found.claim("P6", "cpu", tool="ours", against=["cp"], goal=0.5, figure="cpu")
    cold, cpu = context.finished
    assert (cold.ratio, cold.met, cold.better) == (1.0, True, "higher")
    assert (cpu.ours, round(cpu.ratio, 2), cpu.met, cpu.better) == (0.25, 0.75, False, "lower")


def test_work_of_others_during_a_tools_runs_is_marked(context: Context) -> None:
    judged(context, [OURS, RSYNC]).claim("P1", "slides", tool="ours", against=["rsync"], goal=1.0)
    assert context.finished[0].disturbed == ["rsync"]


@pytest.mark.parametrize("tallies", [[CP], [OURS], [Tally("ours", (), "ended with status 1"), CP]])
def test_a_claim_without_two_sides_is_a_named_failure_and_no_claim(context: Context, tallies: list[Tally]) -> None:
    judged(context, tallies).claim("P1", "slides", tool="ours", against=["cp"], goal=1.0)
    assert not context.finished
    assert context.failures["P1"]


def test_a_peer_that_is_not_installed_is_told_and_not_raced() -> None:
    here = Peer("cp", ("cp",), lambda source, target, scratch: ())
    absent = Peer("fcp", ("no-such-program",), lambda source, target, scratch: ())
    assert present([here, absent]) == ([here], {"fcp": "not installed: no-such-program"})


def test_too_little_room_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(NoRoom, match=r"P1 needs .* GB .* --root"):
        demand_room(tmp_path, 1 << 60, what="P1")
    assert not list(tmp_path.iterdir())


def test_only_unknown_races_are_refused_and_aliases_mean_the_race_they_are_run_in() -> None:
    assert command._chosen("P7,P1") == ["P1", "P6"]
    assert command._chosen("") == list(command.RACES)
    with pytest.raises(SystemExit, match="no such race: P77"):
        command._chosen("P77")


# --- kept, drawn, printed -------------------------------------------------------------------------------

STAMP = Stamp("2026-01-02T03:04:05+00:00", "abc", 0.1, 0.2)


def kept(*claims: Claim) -> Results:
    machine = results.Machine("cpu", 2, 24.0, "6.1", "3.11", "ext4", "vda", True, {"rsync": "3.2"})
    return Results(scale="smoke", stamp=STAMP, seconds=1.0, machine=machine, limits=LIMITS, claims=list(claims))


def a_claim(id: str = "P1", **changes: object) -> Claim:
    facts: dict[str, object] = {
        "id": id, "work": "slides & <labels>", "unit": "GB/s", "ours": 2.0, "peers": {"cp": 1.5, "rsync": 1.0},
        "limit": 4.0, "limit_name": "device-write", "ratio": 1.333, "against": "cp", "goal": 1.2, "met": True,
        "cpu": {"ours": 0.5}, "memory_mb": {"ours": 40.0}, "rounds": {"ours": [1.0, 1.1]},
        "missing": {"fpsync": "not installed: fpart"},
    }  # fmt: skip
    return Claim(**{**facts, **changes})  # type: ignore[arg-type]


def test_results_come_back_as_they_were_kept(tmp_path: Path) -> None:
    results.write(kept(a_claim()), tmp_path / "latest.json")
    assert results.read(tmp_path / "latest.json") == kept(a_claim())


def test_new_claims_replace_old_ones_of_their_id_only() -> None:
    old, new = kept(a_claim("P1"), a_claim("P2")), kept(a_claim("P2", ours=9.0), a_claim("P3"))
    merged = results.merged(old, new).claims
    assert [(claim.id, claim.ours) for claim in merged] == [("P1", 2.0), ("P2", 9.0), ("P3", 2.0)]


def test_a_picture_is_a_drawing_with_every_tool_its_goal_and_its_limit() -> None:
    """It is read without the table: names, values, what was to be reached and what is possible."""
    drawn = pictures.picture(a_claim())
    words = ["".join(node.itertext()) for node in ElementTree.fromstring(drawn).iter() if node.tag.endswith("text")]
    assert {"ours", "cp", "rsync", "goal", "limit: device-write"} <= set(words)
    assert any("slides & <labels>" in word for word in words)
    assert len([node for node in ElementTree.fromstring(drawn).iter() if node.tag.endswith("rect")]) == 3


def test_the_table_says_what_was_missed_and_what_was_skipped() -> None:
    screen = io.StringIO()
    missed = a_claim("P3", met=False, disturbed=["ours"])
    tables.show(kept(a_claim(), missed), {"P9": "no SVS"}, Console(file=screen, width=160))
    said = screen.getvalue()
    assert "missed" in said and "disturbed" in said
    assert "skipped: fpsync: not installed: fpart" in said
    assert "not measured: P9: no SVS" in said


def test_the_page_shows_a_claim_its_peers_and_why_it_is_what_it_is() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "make_performance.py"))["page"]
    told = page(kept(a_claim(met=False)), {"P1": "The device writes no faster."})
    assert "Claims: 0 of 1 met" in told
    assert "| cp | 1.5 |" in told and "| fpsync | not installed: fpart |" in told
    assert "What stands in the way: The device writes no faster." in told


def test_the_page_of_performance_is_made_from_the_kept_results() -> None:
    """Numbers in prose go stale; `python docs/make_performance.py` mends this test."""
    made = runpy.run_path(str(ROOT / "docs" / "make_performance.py"))["made"]()
    assert (ROOT / "docs" / "performance.md").read_text("utf-8") == made


def test_every_kept_claim_has_its_picture_and_every_reason_its_claim() -> None:
    latest = results.read()
    ids = {claim.id for claim in latest.claims}
    for claim in latest.claims:
        assert (results.RESULTS / f"{claim.id}.svg").read_text("utf-8") == pictures.picture(claim)
    why = runpy.run_path(str(ROOT / "docs" / "make_performance.py"))["why"]()
    assert set(why) <= ids
