"""The dashboard, the rules and the page of alarms say only what the daemon measures and what can be typed."""

from __future__ import annotations

import asyncio
import re
import runpy
import shlex
import shutil
import ssl
import subprocess
from pathlib import Path

import click
import pytest
import yaml

from mover.api import make_app, serve
from mover.cli import command
from mover.metrics import described
from mover.settings import Listen, Tls
from tests.api.small_rooms import SmallAccess, small_rooms

ROOT = Path(__file__).parents[2]
MADE = runpy.run_path(str(ROOT / "docs" / "make_watching.py"))
ENDS = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
LABELS = {one.name + end: {*one.labels, "le", "instance", "job"} for one in described() for end in ENDS[one.kind]}
SERIES = re.compile(r"(mover_\w+)(?:\{([^}]*)\})?")
BY = re.compile(r"by \(([^)]*)\)")


def test_dashboard_rules_and_page_are_made_from_the_metrics() -> None:
    """`python docs/make_watching.py` mends this test."""
    for path, text in MADE["written"]().items():
        assert path.read_text("utf-8") == text, path.name


def test_every_panel_and_rule_names_metrics_and_labels_that_exist_and_every_metric_has_a_panel() -> None:
    """An alert on a name that nobody measures is silent for ever (I7)."""
    panels = [panel for panel in MADE["dashboard"]()["panels"] if panel["type"] != "row"]
    rules = MADE["alerts"]()["groups"][0]["rules"]
    expressions = [panel["targets"][0]["expr"] for panel in panels] + [rule["expr"] for rule in rules]
    met = set()
    for expression in expressions:
        found = SERIES.findall(expression)
        assert found, expression
        for name, matchers in found:
            assert name in LABELS, expression
            grouped = [label.strip() for group in BY.findall(expression) for label in group.split(",")]
            assert {*re.findall(r"(\w+)[=!]", matchers), *grouped} <= LABELS[name], expression
            met.add(re.sub("_bucket$", "", name))
    assert met == {one.name for one in described()}
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    for rule in rules:
        labels = LABELS[SERIES.findall(rule["expr"])[0][0]]
        assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= labels


def test_what_the_metrics_page_says_to_alarm_on_has_a_rule() -> None:
    rules = {name for one in MADE["ALARMS"] for name, _ in SERIES.findall(one.expr)}
    assert {one.name for one in described() if "Alarm " in one.says} <= rules


def test_every_alarm_has_its_heading_and_every_command_of_the_page_exists() -> None:
    """At three in the morning a link that leads nowhere is worse than none."""
    page = (ROOT / "docs" / "looking-after.md").read_text("utf-8")
    for rule in MADE["alerts"]()["groups"][0]["rules"]:
        where, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert where == "docs/looking-after.md" and f"\n#### {rule['alert']}\n" in page
        assert anchor == rule["alert"].lower()
    said = re.findall(r"(?:`|^    )mover ([a-z][^`\n]*)", page, re.MULTILINE)
    assert len(said) > 15
    for line in said:
        _resolve(line.split())


def _resolve(words: list[str]) -> None:
    here: click.Command = command
    context = click.Context(command)
    while isinstance(here, click.Group) and words and not words[0].startswith("-"):
        found = here.get_command(context, words[0])
        assert found is not None, words
        here, words = found, words[1:]
    options = {name for one in here.params for name in one.opts}
    assert {word for word in words if word.startswith("-")} <= options, (here.name, words)


@pytest.mark.slow
def test_prometheus_itself_reads_the_rules_and_they_fire(tmp_path: Path) -> None:
    """The judge is the program that will load them."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs Debian package: prometheus")
    rules = ROOT / "integrations" / "prometheus" / "alerts.yaml"
    series = {
        'mover_tier_online{tier="flash"}': "1x5 0x10", "mover_release_stopped": "0x5 1x10",
        'mover_shards_done_total{kind="run-stage",outcome="failed"}': "0x5 1x10", "mover_info": "1x15",
    }  # fmt: skip
    fires = {
        "MoverTierAway": {"tier": "flash", "severity": "now"}, "MoverReleaseStopped": {"severity": "now"},
        "MoverWorkFails": {"kind": "run-stage", "severity": "soon"}, "MoverSilent": None,
    }  # fmt: skip
    asked = [
        {"eval_time": "13m", "alertname": name, "exp_alerts": [{"exp_labels": labels}] if labels else []}
        for name, labels in fires.items()
    ]
    by_name = {one["alert"]: one["annotations"] for one in MADE["alerts"]()["groups"][0]["rules"]}
    for one in asked:
        for alert in one["exp_alerts"]:
            summary = by_name[one["alertname"]]["summary"]
            for label, value in alert["exp_labels"].items():
                summary = summary.replace("{{ $labels." + label + " }}", value)
            alert["exp_annotations"] = {**by_name[one["alertname"]], "summary": summary}
    test = {
        "rule_files": [str(rules)], "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m", "alert_rule_test": asked,
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
            }
        ],
    }  # fmt: skip
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    for words in (["check", "rules", str(rules)], ["test", "rules", str(tmp_path / "test.yaml")]):
        done = subprocess.run([promtool, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
async def test_an_authority_made_by_the_page_is_believed_by_the_strictest_client(tmp_path: Path) -> None:
    """Python 3.13 refuses what older ones took: a page that is read in ten years makes certificates that hold."""
    page = (ROOT / "docs" / "looking-after.md").read_text("utf-8").replace("mover.ward.example", "localhost")
    commands = re.findall(r"^    (openssl .+)$", page, re.MULTILINE)
    assert len(commands) == 3
    if shutil.which("openssl") is None:
        pytest.skip("needs Debian package: openssl")
    [names] = re.findall(r"`names.cnf` of two lines: `([^`]+)` and `([^`]+)`", page)
    (tmp_path / "names.cnf").write_text("\n".join(names) + "\n")
    for line in commands:
        await asyncio.to_thread(subprocess.run, shlex.split(line), cwd=tmp_path, check=True, capture_output=True)
    listen = Listen(None, "127.0.0.1", 0, Tls(tmp_path / "server.pem", tmp_path / "server.key"))
    server = await serve(make_app(small_rooms(), SmallAccess(), version="0"), listen)
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    port = int(server.urls[0].rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    writer.close()
    await server.stop()
