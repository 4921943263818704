"""Who is told: a webhook gets a CloudEvent (specification 1.0, JSON format), a mailbox a few lines in plain text."""

from __future__ import annotations

import asyncio
import smtplib
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from msgspec import Struct

from mover.authority import believing, refusal
from mover.errors import MoverError, ReceiverUnavailable
from mover.log import get_logger
from mover.settings import Mail, Webhook

DELIVERY_S = 10.0
_BEGAN = {"opened": "", "grew": "more: ", "reminded": "still: ", "closed": "over: ", "test": "test: "}

log = get_logger("alarms")


class Said(Struct, frozen=True, kw_only=True):
    """What is said of an alarm, to whomever; `id` is the same when it is sent again."""

    id: str
    site: str
    project: str
    event: str
    at: datetime
    code: str
    severity: str
    noun: str
    subject: str | None
    words: str
    hint: str
    count: int
    opened_at: datetime
    link: str | None


async def send(receiver: Webhook | Mail, said: Said) -> bool:
    """Whether it is there now; why not is logged."""
    try:
        await deliver(receiver, said)
    except MoverError as error:
        log.warning("alarm not delivered", kind=type(receiver).__name__, code=error.code, what=error.what)
        return False
    return True


async def deliver(receiver: Webhook | Mail, said: Said) -> None:
    """It is there afterwards; or ReceiverUnavailable, or SettingsInvalid for a `ca_file` that is none. What the
    receiver answers besides is nobody's business and is told nowhere."""
    try:
        if isinstance(receiver, Webhook):
            await _post(receiver, said)
        else:
            await asyncio.wait_for(asyncio.to_thread(_mail, receiver, said), 3 * DELIVERY_S)
    except (aiohttp.ClientError, TimeoutError, OSError, smtplib.SMTPException, ValueError) as error:
        refused = refusal(error)
        if refused is None:
            raise ReceiverUnavailable(f"the receiver does not take it ({type(error).__name__})") from error
        raise ReceiverUnavailable(
            f"the receiver is not believed: {refused.what}",
            hint=f"{refused.hint} Its authority's file is the receiver's `ca_file`.",
        ) from error


def cloud_event(said: Said) -> dict[str, Any]:
    data = {
        name: getattr(said, name)
        for name in ("code", "severity", "noun", "subject", "words", "hint", "count", "opened_at", "project", "link")
    }
    return {
        "specversion": "1.0", "id": said.id, "source": f"urn:mover:{said.site}:{said.project}",
        "type": f"mover.alarm.{said.event}", "subject": said.code, "time": said.at,
        "datacontenttype": "application/json", "data": data,
    }  # fmt: skip


def message(receiver: Mail, said: Said) -> EmailMessage:
    """Its id and its thread are the alarm's, so that a mail program puts beginning and end together."""
    made, alarm = EmailMessage(), said.id.partition("/")[0]
    made["Subject"] = f"[mover {said.site}] {_BEGAN[said.event]}{said.words}"
    made["From"], made["To"] = receiver.sender, ", ".join(receiver.to)
    made["Date"] = format_datetime(said.at)
    made["Message-ID"] = f"<{said.id.replace('/', '.')}@mover.{said.site}>"
    made["References"] = f"<{alarm}@mover.{said.site}>"
    made["Auto-Submitted"] = "auto-generated"
    where = [said.link] if said.link else []
    made.set_content("\n".join([
        said.words, said.hint, "",
        f"site {said.site}, project {said.project}, {said.severity}, since {said.opened_at:%Y-%m-%d %H:%M} UTC",
        "what else waits: mover needs", *where, "",
    ]))  # fmt: skip
    return made


async def _post(receiver: Webhook, said: Said) -> None:
    headers = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
    secret = await asyncio.to_thread(_secret, receiver.token_file)
    if secret:
        headers["Authorization"] = f"Bearer {secret}"
    timeout, body = aiohttp.ClientTimeout(total=DELIVERY_S), msgspec.json.encode(cloud_event(said))
    trusted = believing(receiver.ca_file, where="receivers: ca_file")
    async with (
        aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
        session.post(receiver.url, data=body, headers=headers, allow_redirects=False, ssl=trusted) as answer,
    ):
        if answer.status >= 300:
            raise ReceiverUnavailable(f"the receiver answers {answer.status}")


def _mail(receiver: Mail, said: Said) -> None:
    context = believing(receiver.ca_file, where="receivers: ca_file")
    password = _secret(receiver.password_file)
    if receiver.tls == "tls":
        server: smtplib.SMTP = smtplib.SMTP_SSL(receiver.host, receiver.port, timeout=DELIVERY_S, context=context)
    else:
        server = smtplib.SMTP(receiver.host, receiver.port, timeout=DELIVERY_S)
    with server:
        if receiver.tls == "starttls":
            server.starttls(context=context)
        if receiver.user and password:
            server.login(receiver.user, password)
        server.send_message(message(receiver, said))


def _secret(file: Path | None) -> str | None:
    return file.read_text("ascii").strip() if file else None
