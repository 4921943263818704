"""A certificate for paper: one page of HTML that loads nothing and runs nothing, with what the check found on top.

The page is no certificate: whoever doubts it checks the signed file, whose digest it names.
"""

from __future__ import annotations

from html import escape
from typing import Any

import msgspec
from blake3 import blake3

from mover.deid.certificate import Checked
from mover.signing import grouped

_STYLE = """
body{font:10pt/1.4 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#000}
h1{font-size:16pt}h2{font-size:12pt;margin:1.5em 0 .3em;border-bottom:1px solid #888}
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.15em .6em .15em 0}
th{font-weight:normal;color:#444;white-space:nowrap;width:1%}td{overflow-wrap:anywhere}
.file{break-inside:avoid;border-bottom:1px solid #ccc;padding-bottom:.5em}.bad{border:2px solid #000;padding:.5em}
@page{margin:18mm}
"""


def page(checked: Checked, signed: bytes) -> bytes:
    """The page of a signed file and what its check found. Every word is escaped: anyone may have written it."""
    shown = msgspec.to_builtins(checked.certificate) if checked.certificate is not None else {}
    files = shown.pop("files", [])
    sections = [_section("This check", _verdict(checked, signed))]
    sections += [_section(_title(name), value) for name, value in shown.items() if isinstance(value, dict | list)]
    plain = {name: value for name, value in shown.items() if not isinstance(value, dict | list)}
    sections.insert(1, _section("What was certified", plain))
    sections += [f'<div class="file">{_section(_file_title(one), one)}</div>' for one in files]
    return _document("Certificate of de-identification", sections)


def sheet(title: str, parts: dict[str, Any]) -> bytes:
    """Any other thing that was checked, on the same paper: a section for each of its parts."""
    return _document(title, [_section(name, value) for name, value in parts.items()])


def _document(title: str, sections: list[str]) -> bytes:
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{escape(title)}</h1>\n{''.join(sections)}</body></html>\n"
    ).encode("utf-8", "replace")


def _verdict(checked: Checked, signed: bytes) -> dict[str, Any]:
    problems = list(checked.problems)
    return {
        "result": f"NOT VALID, {len(problems)} found" if problems else "valid: every part is as it was signed",
        **({"problems": problems} if problems else {}),
        "key": checked.fingerprint or "none",
        "key trusted": "yes" if checked.trusted else "compare it with the one you were told",
        "outputs hashed again": checked.files_checked,
        "BLAKE3 of the signed file": grouped(blake3(signed).hexdigest()),
    }


def _section(title: str, value: Any) -> str:
    worry = ' class="bad"' if isinstance(value, dict) and "problems" in value else ""
    return f"<section{worry}><h2>{escape(title)}</h2>{_shown(value)}</section>\n"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        rows = (f"<tr><th>{escape(_title(str(name)))}</th><td>{_shown(one)}</td></tr>" for name, one in value.items())
        return f"<table>{''.join(rows)}</table>" if value else "none"
    if isinstance(value, list | tuple):
        return "<br>".join(_shown(one) for one in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return escape(str(value)) or "none"


def _file_title(one: dict[str, Any]) -> str:
    return f"{one['kind']} {one['number']}"


def _title(name: str) -> str:
    return name.replace("_", " ")
