"""The operators in a real Airflow: what is deferred, what its trigger carries, and what the task gets back."""

from __future__ import annotations

import asyncio
import importlib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mover.sdk import SyncClient
from tests.system.ward import Ward

pytest.importorskip("airflow", reason="needs apache-airflow, which no other test needs")

from airflow.exceptions import AirflowException, TaskDeferred  # noqa: E402

from mover.schedulers.airflow import FinishRun, KeepRun, StageRun  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("callers")]


@pytest.fixture
def client(standing: Ward) -> Iterator[SyncClient]:
    with standing.client() as opened:
        yield opened


def context(try_number: int = 1) -> dict[str, Any]:
    ti = types.SimpleNamespace(dag_id="train", run_id="manual", task_id="stage", map_index=-1, try_number=try_number)
    return {"ti": ti}


def carried(operator: Any) -> Any:
    """What the scheduler and a triggerer do with a deferred task: the trigger is written down as its path and words,
    made again elsewhere, run, and its event handed to the named method."""
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context())
    path, words = deferred.value.trigger.serialize()
    module, _, name = path.rpartition(".")
    trigger = getattr(importlib.import_module(module), name)(**words)

    async def first() -> Any:
        return (await anext(trigger.run())).payload

    return getattr(operator, deferred.value.method_name)(context(), event=asyncio.run(first()))


def test_a_run_is_staged_and_ended_by_deferred_tasks(standing: Ward, client: SyncClient) -> None:
    """No worker waits for data: between asking and ready there is only a trigger."""
    where: dict[str, Any] = {"url": standing.url, "token_file": str(standing.site.token)}
    told = carried(StageRun(task_id="stage", request={"expression": "family is not null"}, **where))
    assert told["state"] == "ready" and Path(told["root"], "RUN.json").exists()
    # beside a training that never ends; and beside one that ended
    died = KeepRun(task_id="keep", run=told["run"], at_most_s=1, **where)
    with pytest.raises(AirflowException, match="nobody finished the run"):
        carried(died)
    Path(told["out"], "model.bin").write_text("weights")
    ended = carried(FinishRun(task_id="finish", run=told["run"], finish={"exit": 0}, **where))
    assert ended["state"] == "cleaned" and ended["snapshots"]
    assert client.runs.view(told["run"]).state == "cleaned"
    assert carried(KeepRun(task_id="keep", run=told["run"], **where))["state"] == "cleaned"


def test_a_run_that_cannot_be_fails_its_task_with_the_reason(standing: Ward) -> None:
    """Airflow shows the exception: it must say what to mend."""
    where: dict[str, Any] = {"url": standing.url, "token_file": str(standing.site.token)}
    with pytest.raises(AirflowException, match="no such run"):
        carried(FinishRun(task_id="finish", run="run-absent", **where))
