"""What a compliance officer asks, each question with its answer, its rows and what proves them."""

from __future__ import annotations

from mover.api.operation import Call, Operations, Query, ShortQuery
from mover.model import wire

OPERATIONS = Operations()


class AboutQuery(Query, frozen=True):
    """The id that the question is about, where it is about one."""

    about: ShortQuery | None = None


@OPERATIONS.add("GET", "/v1/answers", "answers.read", wire.Questions)
async def questions(call: Call[None, Query]) -> wire.Questions:
    """The questions that can be asked."""
    return await call.rooms.answers.questions()


@OPERATIONS.add(
    "GET", "/v1/answers/{question}", "answers.read", wire.ComplianceAnswer, query=AboutQuery, reads="answer"
)
async def answer(call: Call[None, AboutQuery]) -> wire.ComplianceAnswer:
    """One question, answered from the catalog's rows as they are now."""
    return await call.rooms.answers.answer(call.project, call.id, call.query.about)
