"""Keep passwords and keys out of every file that a run writes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

HIDDEN = "***"
SHORTEST = 6  # a shorter value of a *_KEY variable ("1", "true") is no secret and would blot out ordinary words

_SECRET_VARIABLE = re.compile(r"(_KEY|_TOKEN|_SECRET|PASSWORD[A-Z_]*)$")
_SECRET_NAME = re.compile(r"(api_?key|access_?key|token|secret|password)$", re.IGNORECASE)
_URL_LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_ASSIGNED = re.compile(r"(?i)((?:api_?key|access_?key|token|secret|password)=)\S+")


def secret_values(environ: Mapping[str, str] | None = None) -> list[str]:
    """The values that must not be written: of variables named like a key; the longest first."""
    variables = os.environ if environ is None else environ
    found = {value for name, value in variables.items() if _SECRET_VARIABLE.search(name.upper())}
    return sorted((value for value in found if len(value) >= SHORTEST), key=len, reverse=True)


def redact(value: Any, secrets: Iterable[str] | None = None) -> Any:
    """``value`` (nested dicts and lists) with secrets, logins in URLs and fields named like a password starred out."""
    known = secret_values() if secrets is None else list(secrets)
    if isinstance(value, dict):
        return {
            redact(key, known): HIDDEN if _is_secret_field(key, item) else redact(item, known)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(item, known) for item in value]
    return _redact_text(value, known) if isinstance(value, str) else value


def _is_secret_field(key: Any, item: Any) -> bool:
    return isinstance(key, str) and isinstance(item, str) and bool(item) and bool(_SECRET_NAME.search(key))


def _redact_text(text: str, known: list[str]) -> str:
    for secret in known:
        text = text.replace(secret, HIDDEN)
    return _ASSIGNED.sub(rf"\1{HIDDEN}", _URL_LOGIN.sub(HIDDEN, text))
