"""W&B is absent, offline, unreachable, refuses, or dies: row 42 of the fault matrix. And what ``sync`` uploads.

Every test is of the command in a process of its own, with the real W&B; only its server is ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from faults.wandb_service import CLOSED, KEY, service

TINY = [
    *("debug=fast", "runtime.workers=0", "runtime.log_every=1", "recipe.batch=16", "capacity.group_images=8"),
    *("model.width=16", "model.depth=2", "model.heads=2", "model.mlp=16", "model.experts=4", "model.moe_blocks=[1]"),
    *("probe.sets=[]", "recipe.steps=4", "logger=wandb"),
]
WITHIN_S = 120.0
CACHE = Path(os.environ.get("MOE_BENCH_CACHE") or Path.home() / ".cache" / "moe-bench")

pytestmark = pytest.mark.slow


class Typed:
    """A command that has ended: its exit code, what it said, its runs."""

    def __init__(
        self,
        here: Path,
        *words: str,
        before: str = "",
        act: Callable[[psutil.Process], None] = lambda _: None,
        **env: str,
    ) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "NETRC"))}
        kept |= {"HOME": str(here), "MOE_BENCH_CACHE": str(CACHE), "OMP_NUM_THREADS": "1", **env}
        start = (
            f"{before}\nfrom moe_bench.__main__ import main\nimport sys\nsys.argv[0] = 'moe-bench'\nsys.exit(main())"
        )
        with subprocess.Popen(
            [sys.executable, "-c", start, *words], cwd=here, env=kept, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as started:  # fmt: skip
            watcher = threading.Thread(target=act, args=[psutil.Process(started.pid)])
            watcher.start()
            self.out, self.err = started.communicate(timeout=WITHIN_S)
            watcher.join()
        self.code = started.returncode
        self.said = [line for line in self.out.splitlines() if "W&B" in line]


def only_run(here: Path) -> Path:
    (run,) = (path for path in (here / "runs").iterdir() if path.is_dir())
    return run


def steps(rows: list[dict[str, Any]]) -> list[int]:
    return [row["step"] for row in rows if "train/loss" in row]


def own_rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def is_whole(run: Path, last: int = 4) -> bool:
    """Whether the run ended well and all its rows are in its own file."""
    return (run / "summary.json").exists() and steps(own_rows(run)) == list(range(1, last + 1))


def offline_files(run: Path) -> list[Path]:
    return [file for file in run.glob("wandb/offline-run-*/*.wandb") if file.stat().st_size > 1000]


def after_a_step(here: Path, act: Callable[[psutil.Process], None]) -> Callable[[psutil.Process], None]:
    """``act`` once the run under ``here`` has written a row."""

    def wait(process: psutil.Process) -> None:
        while process.is_running() and not any(file.stat().st_size for file in here.glob("runs/*/metrics.jsonl")):
            time.sleep(0.02)
        act(process)

    return wait


def kill_service(process: psutil.Process) -> None:
    services = [child for child in process.children(recursive=True) if "wandb" in child.name()]
    assert services
    for one in services:
        one.kill()


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({}, "no key for api.wandb.ai"),
        ({"WANDB_API_KEY": KEY, "WANDB_BASE_URL": CLOSED}, "127.0.0.1 does not answer"),
        ({"WANDB_MODE": "offline"}, "as asked"),
    ],
)
def test_row_42_without_a_server_a_run_is_whole_and_its_offline_file_remains(
    environment: dict[str, str], why: str, tmp_path: Path
) -> None:
    done = Typed(tmp_path, *TINY, **environment)
    run = only_run(tmp_path)
    assert (done.code, done.err) == (0, "")
    assert done.said == [f"W&B: offline ({why}); to upload: moe-bench sync runs/{run.name}"]
    assert is_whole(run)
    assert len(offline_files(run)) == 1


def test_row_42_a_server_that_refuses_the_key_leaves_the_run_whole_and_offline(tmp_path: Path) -> None:
    with service("denying") as server:
        done = Typed(tmp_path, *TINY, WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url)
        again = Typed(tmp_path, "sync", WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url)
    run = only_run(tmp_path)
    assert (done.code, done.err, len(done.said)) == (0, "", 1)
    assert "offline (" in done.said[0]
    assert "not logged in" in done.said[0]
    assert is_whole(run)
    assert len(offline_files(run)) == 1
    assert again.code == 2
    assert "failed after 0 of 1 attempt: Failed to get resume status" in again.out
    assert "user is not logged in" in again.out
    assert "0 runs uploaded, 1 failed" in again.out


def test_row_42_a_service_killed_midway_never_reaches_the_training(tmp_path: Path) -> None:
    done = Typed(tmp_path, *TINY, "recipe.steps=60", act=after_a_step(tmp_path, kill_service))
    assert (done.code, done.err, len(done.said)) == (0, "", 2)
    assert "W&B is off for the rest of this run" in done.said[1]
    assert is_whole(only_run(tmp_path), last=60)


def test_row_42_a_server_silent_at_the_end_is_waited_for_briefly_and_sync_uploads_the_rest(tmp_path: Path) -> None:
    with service() as server:
        account = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url}
        impatient = "from moe_bench.monitor import wandb_logger\nwandb_logger.FINISH_S = 3.0"
        silence = after_a_step(tmp_path, lambda _: setattr(server, "mood", "silent"))
        done = Typed(tmp_path, *TINY, before=impatient, act=silence, **account)
        run = only_run(tmp_path)
        assert (done.code, is_whole(run)) == (0, True)
        assert done.said == [
            f"W&B: {server.url}/me/moe-bench/runs/{run.name}",
            f"W&B did not take the rest within 3 s; upload it later: moe-bench sync runs/{run.name}",
        ]
        server.mood = "kind"
        uploaded = Typed(tmp_path, "sync", **account)
    assert (uploaded.code, uploaded.err) == (0, "")
    assert set(steps(server.rows[run.name])) == {1, 2, 3, 4}


def test_row_42_without_the_package_a_run_is_whole_and_sync_says_what_to_install(tmp_path: Path) -> None:
    absent = "import sys\nsys.modules['wandb'] = None"
    done = Typed(tmp_path, *TINY, before=absent)
    assert (done.code, done.err, len(done.said)) == (0, "", 1)
    assert is_whole(only_run(tmp_path))
    uploadable(tmp_path / "runs" / "other")
    refused = Typed(tmp_path, "sync", before=absent)
    assert (refused.code, refused.out) == (2, "")
    assert "pip install wandb" in refused.err


def uploadable(run: Path) -> None:
    folder = run / "wandb" / "offline-run-20260101_000000-other"
    folder.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (folder / "run-other.wandb").write_bytes(bytes(100))


def test_sync_joins_the_attempts_of_a_run_under_its_name_and_says_how_it_ended(tmp_path: Path) -> None:
    words = [*TINY, "recipe.steps=60"]
    with service() as server:
        account = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url}
        first = Typed(tmp_path, *words, act=after_a_step(tmp_path, lambda process: process.terminate()))
        name = only_run(tmp_path).name
        assert first.code == 143
        assert Typed(tmp_path, "sync", **account).code == 0
        assert server.exit_codes == {name: 1}
        before = steps(server.rows[name])
        assert before == list(range(1, len(before) + 1))
        assert Typed(tmp_path, *words).code == 0
        second = Typed(tmp_path, "sync", f"runs/{name}", **account)
        third = Typed(tmp_path, "sync", "runs", **account)
    assert f"runs/{name}  1 attempt uploaded  {server.url}/me/moe-bench/runs/{name}" in second.out
    assert (third.code, third.out) == (0, "0 runs uploaded · 2 attempts uploaded before\n")
    assert 0 < len(before) < 60
    assert steps(server.rows[name]) == list(range(1, 61))
    assert server.exit_codes == {name: 0}


def test_sync_uploads_what_a_killed_attempt_wrote_in_full_and_takes_it_for_done(tmp_path: Path) -> None:
    with service() as server:
        account = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url}
        assert Typed(tmp_path, *TINY).code == 0
        run = only_run(tmp_path)
        (file,) = offline_files(run)
        os.truncate(file, file.stat().st_size - 30)
        torn = Typed(tmp_path, "sync", **account)
        again = Typed(tmp_path, "sync", **account)
    assert (torn.code, torn.err) == (0, "")
    assert "1 attempt uploaded before" in again.out
    assert steps(server.rows[run.name]) == [1, 2, 3, 4]


def test_a_run_that_is_started_over_joins_none_of_before(tmp_path: Path) -> None:
    for _ in range(2):
        assert Typed(tmp_path, *TINY, "force=true", WANDB_MODE="offline").code == 0
    again, before = sorted((tmp_path / "runs").iterdir(), key=lambda run: "~" in run.name)
    assert [file.name for file in offline_files(before)] == [f"run-{again.name}.wandb"]
    assert [file.name for file in offline_files(again)] == [f"run-{again.name}-2.wandb"]
    assert Typed(tmp_path, *TINY).out.count("is finished; skipped") == 1


def test_each_run_of_a_sweep_is_a_run_of_its_own_there(tmp_path: Path) -> None:
    with service() as server:
        account = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url}
        assert Typed(tmp_path, "-m", *TINY, "seed=1,2", **account).code == 0
    runs = {path.parent.name for path in (tmp_path / "runs").glob("*/summary.json")}
    assert len(runs) == 2
    assert {name: steps(found) for name, found in server.rows.items()} == {name: [1, 2, 3, 4] for name in runs}
    assert server.exit_codes == dict.fromkeys(runs, 0)
