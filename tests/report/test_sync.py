"""What ``sync`` finds, passes over and refuses. Its uploads are tested with a server in tests/faults/test_wandb.py."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from moe_bench.errors import ConfigError
from moe_bench.monitor import wandb_offline
from moe_bench.monitor.environment import host
from moe_bench.monitor.lock import now
from moe_bench.report import sync


def attempt(run: Path, began: str, *, kind: str = "offline-run", size: int = 100, synced: bool = False) -> Path:
    """W&B's file of an attempt of a run that has ended."""
    folder = run / "wandb" / f"{kind}-{began}-{run.name}"
    folder.mkdir(parents=True)
    if not (run / "status.json").exists():
        (run / "status.json").write_text(json.dumps({"state": "preempted"}))
    file = folder / f"run-{run.name}.wandb"
    file.write_bytes(bytes(size))
    if synced:
        wandb_offline.mark_synced(file)
    return file


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def test_attempts_come_in_the_order_that_they_began_and_empty_ones_not_at_all(runs: Path) -> None:
    later = attempt(runs / "a", "20260102_000000")
    earlier = attempt(runs / "a", "20260101_000000")
    attempt(runs / "a", "20260103_000000", size=wandb_offline.HEADER)
    assert wandb_offline.attempts(runs / "a") == [earlier, later]


def test_online_attempts_count_where_their_end_was_not_uploaded(runs: Path) -> None:
    attempt(runs / "a", "20260101_000000", kind="run")
    cut_off = attempt(runs / "a", "20260103_000000", kind="run")
    offline = attempt(runs / "a", "20260102_000000")
    (cut_off.parent / "files").mkdir()
    wandb_offline.mark_unfinished(cut_off.parent / "files")
    assert wandb_offline.attempts(runs / "a") == [offline, cut_off]


def test_what_is_uploaded_archived_or_still_running_is_passed_over(runs: Path) -> None:
    attempt(runs / "done", "20260101_000000", synced=True)
    pending = attempt(runs / "mixed", "20260102_000000")
    attempt(runs / "mixed", "20260101_000000", synced=True)
    attempt(runs / "mixed~1", "20260101_000000")
    attempt(runs / "alive", "20260101_000000")
    alive = {"state": "running", "pid": os.getpid(), "host": host(), "heartbeat": now(), "started": now()}
    (runs / "alive" / "status.json").write_text(json.dumps(alive))
    found = sync.find([runs])
    assert (found.pending, found.synced, found.running) == ({runs / "mixed": [pending]}, 2, 1)
    told = sync.tally(found, 0, only_list=False)
    assert told == "1 run uploaded · 2 attempts uploaded before · 1 still running: upload when it has ended"


def test_nothing_to_upload_needs_no_key(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attempt(runs / "done", "20260101_000000", synced=True)
    assert sync.run([str(runs)]) == 0
    assert capsys.readouterr().out == "0 runs uploaded · 1 attempt uploaded before\n"


def test_the_list_asks_no_server(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attempt(runs / "a", "20260101_000000")
    assert sync.run([str(runs), "--list"]) == 0
    assert capsys.readouterr().out == f"{runs / 'a'}  1 attempt\n1 run to upload\n"


def test_without_a_key_or_an_answer_one_screen_says_what_to_do(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt(runs / "a", "20260101_000000")
    with pytest.raises(ConfigError, match=r"no key for api\.wandb\.ai(.|\n)*wandb login(.|\n)*WANDB_API_KEY"):
        sync.run([str(runs)])
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1 does not answer"):
        sync.run([str(runs)])


def test_a_folder_that_is_not_there_is_told(runs: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        sync.run([str(runs / "none")])
