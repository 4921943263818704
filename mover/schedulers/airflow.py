"""Airflow: a run is staged and ended by deferrable operators; waiting costs a coroutine of the triggerer, no worker.

`follow` is all that a trigger does; it knows nothing of Airflow and is safe to run twice at once, as highly
available triggerers do. Import the operators where Airflow is installed:

    stage = StageRun(task_id="stage", url=URL, token_file=TOKEN, request={"cohort": "prostate@3", "lease_s": 3600})
    keep = KeepRun(task_id="keep", url=URL, token_file=TOKEN, run="{{ ti.xcom_pull('stage')['run'] }}")
    train = BashOperator(task_id="train", bash_command='train "$ROOT"',
                         env={"ROOT": "{{ ti.xcom_pull('stage')['root'] }}"}, append_env=True)
    finish = FinishRun(task_id="finish", url=URL, token_file=TOKEN, run="{{ ti.xcom_pull('stage')['run'] }}",
                       trigger_rule="all_done")
    stage >> [keep, train]
    train >> finish

`KeepRun` keeps the lease beside the training and ends with the run, so the lease may be short. `trigger_rule` has a
failed training protected, too; without it `KeepRun` would keep its run for `at_most_s`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from airflow.exceptions import AirflowException
from airflow.models import BaseOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent

from mover.model import wire
from mover.schedulers.following import ask_run, follow, give_up

WAIT_LIMIT_S, KEEP_LIMIT_S = 86_400.0, 14 * 86_400.0


class RunTrigger(BaseTrigger):
    """Until the run is ready, or no longer, or protected and gone."""

    def __init__(
        self, url: str, token_file: str, run: str, goal: str, finish: dict[str, Any] | None = None,
        limit_s: float = WAIT_LIMIT_S,
    ) -> None:  # fmt: skip
        super().__init__()
        self._said: dict[str, Any] = {
            "url": url, "token_file": token_file, "run": run, "goal": goal, "finish": finish, "limit_s": limit_s,
        }  # fmt: skip

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.RunTrigger", self._said

    async def run(self) -> AsyncIterator[TriggerEvent]:
        yield TriggerEvent(msgspec.to_builtins(await follow(**self._said)))


class _RunOperator(BaseOperator):
    def __init__(self, *, url: str, token_file: str, **said: Any) -> None:
        super().__init__(**said)
        self.url, self.token_file = url, token_file

    def _defer(self, run: str, goal: str, **said: Any) -> None:
        self.defer(trigger=RunTrigger(self.url, self.token_file, run, goal, **said), method_name="told")

    def told(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """What the trigger saw; its dict is the task's XCom."""
        if not event["well"]:
            raise AirflowException(event["why"])
        return event


class StageRun(_RunOperator):
    """`request` as the body of POST /v1/runs. The key is the task's own try: a worker that is lost after it asked
    leaves a run that its lease ends, and the next try moves no byte twice."""

    template_fields: Sequence[str] = ("request",)

    def __init__(self, *, request: dict[str, Any], **said: Any) -> None:
        super().__init__(**said)
        self.request = request
        self._asked = ""

    def execute(self, context: Any) -> None:
        ti = context["ti"]
        key = f"airflow/{ti.dag_id}/{ti.run_id}/{ti.task_id}/{ti.map_index}/{ti.try_number}"
        self._asked = ask_run(self.url, self.token_file, msgspec.convert(self.request, wire.RunRequest), key=key)
        self._defer(self._asked, "ready")

    def on_kill(self) -> None:
        if self._asked:
            give_up(self.url, self.token_file, self._asked)


class KeepRun(_RunOperator):
    """Beside the training: the run's lease, until `FinishRun` ends it."""

    template_fields: Sequence[str] = ("run",)

    def __init__(self, *, run: str, at_most_s: float = KEEP_LIMIT_S, **said: Any) -> None:
        super().__init__(**said)
        self.run, self.at_most_s = run, at_most_s

    def execute(self, context: Any) -> None:
        self._defer(self.run, "kept", limit_s=self.at_most_s)


class FinishRun(_RunOperator):
    """`finish` as the body of POST /v1/runs/{id}/finish: protected, then cleaned."""

    template_fields: Sequence[str] = ("run", "finish")

    def __init__(self, *, run: str, finish: dict[str, Any] | None = None, **said: Any) -> None:
        super().__init__(**said)
        self.run, self.finish = run, finish

    def execute(self, context: Any) -> None:
        self._defer(self.run, "cleaned", finish=self.finish)
