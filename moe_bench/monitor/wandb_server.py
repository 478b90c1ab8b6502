"""The W&B server: which one, whether we have a key for it, whether it answers. Imports neither W&B nor torch."""

from __future__ import annotations

import netrc
import os
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

SERVER = "https://api.wandb.ai"
REACH_S = 2.0


def server_url(variables: Mapping[str, str]) -> str:
    """Where W&B is: its own service, or one of the user's."""
    return variables.get("WANDB_BASE_URL") or SERVER


def choose_mode(mode: str, environ: Mapping[str, str] | None = None) -> tuple[str, str]:
    """("online", "offline" or "disabled", why). Asks nobody, and opens no connection unless a key is configured."""
    variables = os.environ if environ is None else environ
    server = server_url(variables)
    wanted = variables.get("WANDB_MODE", "") if mode == "auto" else mode
    if wanted in ("offline", "disabled"):
        return wanted, "as asked"
    if not has_key(server, variables):
        return "offline", f"no key for {urlsplit(server).hostname}"
    if not answers(server, variables):
        return "offline", f"{urlsplit(server).hostname} does not answer"
    return "online", ""


def has_key(server: str, variables: Mapping[str, str]) -> bool:
    """Whether a key is in the environment or in the user's netrc file."""
    if variables.get("WANDB_API_KEY") or variables.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    home = Path(variables.get("HOME") or Path.home())
    named = variables.get("NETRC")
    for path in [Path(named)] if named else [home / ".netrc", home / "_netrc"]:
        try:
            found = netrc.netrc(str(path)).authenticators(urlsplit(server).hostname or "")
        except (OSError, netrc.NetrcParseError):
            continue
        if found is not None:
            return True
    return False


def answers(server: str, variables: Mapping[str, str]) -> bool:
    """Whether somebody takes a connection there within REACH_S; looking its name up counts."""
    if any(variables.get(name) for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")):
        return True  # a proxy stands between; W&B's own time limit decides
    url, found = urlsplit(server), threading.Event()

    def connect() -> None:
        port = url.port or (80 if url.scheme == "http" else 443)
        with suppress(OSError), socket.create_connection((url.hostname or "", port), REACH_S):
            found.set()

    thread = threading.Thread(target=connect, daemon=True)  # a name server may be silent for far longer than REACH_S
    thread.start()
    thread.join(REACH_S)
    return found.is_set()
