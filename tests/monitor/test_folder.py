from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from moe_bench.errors import CheckpointError, ConfigError, DivergedError, Interrupted, RunInUseError, Terminated
from moe_bench.monitor.atomic import read_json, write_json
from moe_bench.monitor.folder import RunFolder
from moe_bench.monitor.lifecycle import STATES, Start, outcome
from moe_bench.monitor.lock import now
from moe_bench.monitor.rows import read_rows

RECORD = {"config": {"recipe": {"lr": 0.1}}, "science": {"recipe.lr": 0.1, "seed": 0}, "overrides": ["recipe.lr=0.1"]}


@dataclass(frozen=True)
class Saved:
    path: Path
    step: int
    lengths: dict[str, int] | None = None


def find(checkpoints: Path) -> Saved | None:
    steps = sorted(checkpoints.glob("step-*"))
    return Saved(steps[-1], int(steps[-1].name[5:])) if steps else None


def take(folder: RunFolder, **options: Any) -> Start:
    return folder.open(RECORD, find_checkpoint=find, **options)


def unfinished(path: Path, step: int = 20) -> None:
    """A run that stopped after a checkpoint at ``step`` and wrote rows up to step 30."""
    with RunFolder(path) as folder:
        take(folder)
        (folder.checkpoints / f"step-{step:08d}").mkdir()
        lines = [json.dumps({"step": s, "loss": 1.0}) for s in (10, 20, 30)]
        folder.metrics_jsonl.write_text("\n".join(lines) + '\n{"step": 40, "lo')
        folder.fail(Interrupted("stopped by SIGTERM", 143))


def leave_by(error: BaseException, folder: RunFolder, record: dict[str, Any] = RECORD) -> None:
    with folder:
        folder.open(record, find_checkpoint=find)
        raise error


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_a_new_run_starts_and_says_so_in_its_files(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        start = take(folder)
        assert (start.action, start.attempt, start.checkpoint) == ("start", 1, None)
        record, status = read_json(folder.run_json), read_json(folder.status_json)
    assert record is not None
    assert status is not None
    assert record["config"] == RECORD["config"]
    assert {"versions", "git", "host", "python", "attempts"} <= record.keys()
    assert (status["state"], status["pid"], status["attempt"]) == ("running", os.getpid(), 1)
    assert {"heartbeat", "host", "started", "step"} <= status.keys()


def test_a_run_that_is_busy_gives_a_sign_of_life_until_it_is_over(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", beat_s=0.01) as folder:
        take(folder)
        begun = folder.status_json.stat().st_mtime_ns
        while folder.status_json.stat().st_mtime_ns == begun:  # the test's own time limit ends it
            time.sleep(0.01)
        folder.finish({})
        ended = folder.status_json.stat().st_mtime_ns
        time.sleep(0.1)
        assert folder.status_json.stat().st_mtime_ns == ended


def test_a_finished_run_is_skipped_with_its_summary_and_nothing_is_written(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        take(folder)
        folder.finish({"val/prec1": 0.5})
    before = tree(tmp_path)
    with RunFolder(tmp_path / "run") as folder:
        start = take(folder)
    assert (start.action, start.summary) == ("skip", {"val/prec1": 0.5})
    assert tree(tmp_path) == before


def test_an_unfinished_run_resumes_without_rows_beyond_its_checkpoint(tmp_path: Path) -> None:
    unfinished(tmp_path / "run")
    with RunFolder(tmp_path / "run") as folder:
        start = take(folder)
        assert (start.action, start.step, start.attempt) == ("resume", 20, 2)
        assert "preempted" in start.note
        rows, torn = read_rows(folder.metrics_jsonl)
    assert [row["step"] for row in rows] == [10, 20]
    assert torn == 0


def test_rows_that_a_checkpoint_did_not_have_yet_are_dropped_from_every_file(tmp_path: Path) -> None:
    unfinished(tmp_path / "run")
    with RunFolder(tmp_path / "run") as folder:
        folder.metrics_jsonl.write_text('{"step": 20}\n')
        lengths = folder.lengths()
        for table in (folder.metrics_jsonl, folder.routing / "layers.jsonl"):
            with table.open("a") as file:
                file.write('{"step": 20, "val/loss": 1.0}\n')
        folder.open(RECORD, find_checkpoint=lambda path: Saved(path, 20, lengths))
        assert read_rows(folder.metrics_jsonl) == ([{"step": 20}], 0)
        assert read_rows(folder.routing / "layers.jsonl") == ([], 0)


def test_a_run_without_a_checkpoint_starts_over_with_empty_metrics(tmp_path: Path) -> None:
    unfinished(tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "step-00000020").rmdir()
    with RunFolder(tmp_path / "run") as folder:
        assert take(folder).action == "start"
        assert folder.metrics_jsonl.read_bytes() == b""


def test_force_puts_even_a_finished_run_aside_under_the_next_free_number(tmp_path: Path) -> None:
    for prec1 in (0.1, 0.2, 0.3):
        with RunFolder(tmp_path / "run") as folder:
            assert take(folder, force=True).action == "start"
            folder.finish({"val/prec1": prec1})
    assert folder.started_over == 2
    found = {path.name: (read_json(path / "summary.json") or {})["val/prec1"] for path in tmp_path.iterdir()}
    assert found == {"run": 0.3, "run~1": 0.1, "run~2": 0.2}


def test_resume_never_puts_an_unfinished_run_aside(tmp_path: Path) -> None:
    unfinished(tmp_path / "run")
    with RunFolder(tmp_path / "run") as folder:
        start = take(folder, resume="never")
    assert start.action == "start"
    assert (tmp_path / "run~1" / "checkpoints" / "step-00000020").is_dir()


def test_resume_must_refuses_to_start_from_nothing(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder, pytest.raises(CheckpointError, match="resume=must"):
        take(folder, resume="must")
    unfinished(tmp_path / "other")
    with RunFolder(tmp_path / "other") as folder:
        assert take(folder, resume="must").step == 20


def test_other_science_in_the_same_folder_is_refused_with_the_difference(tmp_path: Path) -> None:
    unfinished(tmp_path / "run")
    before = tree(tmp_path)
    record = {**RECORD, "science": {"recipe.lr": 0.3, "seed": 0}}
    with RunFolder(tmp_path / "run") as folder, pytest.raises(ConfigError, match=r"recipe\.lr: 0\.1 → 0\.3"):
        folder.open(record, find_checkpoint=find)
    assert {k: v for k, v in tree(tmp_path).items() if "owner" not in k} == before


def test_a_second_process_is_refused_by_name_and_touches_nothing(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        take(folder)
        before = tree(tmp_path)
        with pytest.raises(RunInUseError, match=str(os.getpid())) as refused:
            take(RunFolder(tmp_path / "run"))
        assert refused.value.exit_code == 6
        assert tree(tmp_path) == before


def test_a_lock_dies_with_its_process_though_a_child_of_it_lives_on(tmp_path: Path) -> None:
    script = f"""
        import os, time
        from pathlib import Path
        from moe_bench.monitor.folder import RunFolder
        folder = RunFolder({str(tmp_path / "run")!r})
        folder.open({{}}, find_checkpoint=lambda _: None)
        if os.fork() == 0:
            print("held", flush=True)  # by its parent
        time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, start_new_session=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"held\n"
        with pytest.raises(RunInUseError, match=str(owner.pid)):
            take(RunFolder(tmp_path / "run"))
        owner.kill()
        owner.wait()
        with RunFolder(tmp_path / "run") as folder:
            start = take(folder)
        os.killpg(owner.pid, signal.SIGKILL)
    assert "was killed" in start.note
    assert start.attempt == 2


def test_a_live_run_on_another_host_is_left_alone_and_a_silent_one_taken_over(tmp_path: Path) -> None:
    status = {"state": "running", "host": "elsewhere", "pid": 7, "heartbeat": now()}
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run" / "status.json", status)
    with pytest.raises(RunInUseError, match="process 7 on elsewhere"):
        take(RunFolder(tmp_path / "run"))
    write_json(tmp_path / "run" / "status.json", {**status, "heartbeat": "2020-01-01T00:00:00Z"})
    with RunFolder(tmp_path / "run") as folder:
        assert take(folder).action == "start"


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [
        (DivergedError("loss is nan"), "diverged", 5),
        (Interrupted("stopped", 143), "preempted", 143),
        (Interrupted("stopped", 130), "interrupted", 130),
        (KeyboardInterrupt(), "interrupted", 130),
        (Terminated(), "preempted", 143),
        (SystemExit(143), "preempted", 143),
        (ZeroDivisionError("division by zero"), "failed", 1),
    ],
)
def test_leaving_by_an_error_says_why_in_status_json(
    tmp_path: Path, error: BaseException, state: str, code: int
) -> None:
    with pytest.raises(type(error)):
        leave_by(error, RunFolder(tmp_path))
    status = read_json(tmp_path / "status.json") or {}
    assert (status["state"], status["exit_code"]) == outcome(error) == (state, code)
    assert state in STATES
    assert status["reason"]
    assert type(error).__name__ in (tmp_path / "error.log").read_text()


def test_a_deleted_folder_is_an_error_of_storage(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        take(folder)
        (tmp_path / "run").rename(tmp_path / "moved")
        with pytest.raises(CheckpointError, match="moved or deleted"):
            folder.update(step=3)
    assert not (tmp_path / "run").exists()


def test_whatever_misses_a_deleted_folder_is_an_error_of_storage(tmp_path: Path) -> None:
    def run() -> None:
        with RunFolder(tmp_path / "run") as folder:
            take(folder)
            shutil.rmtree(folder.path)
            (folder.path / "routing" / "layers.jsonl").write_text("")

    with pytest.raises(CheckpointError, match="run was moved or deleted"):
        run()
    assert not (tmp_path / "run").exists()


def test_a_folder_that_somebody_made_anew_is_not_ours(tmp_path: Path) -> None:
    def run() -> None:
        with RunFolder(tmp_path / "run") as folder:
            take(folder)
            folder.path.rename(tmp_path / "moved")
            folder.path.mkdir()
            with pytest.raises(CheckpointError, match="moved or deleted"):
                folder.record(device="CPU")
            raise CheckpointError("the checkpoint cannot be used")

    with pytest.raises(CheckpointError, match="moved or deleted"):
        run()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_full_disk_is_an_error_of_storage_with_the_bytes_that_are_free(tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(CheckpointError, match=r"No space left on device; .*B are free there\. Free some space"):
        leave_by(error, RunFolder(tmp_path / "run"))
    assert (read_json(tmp_path / "run" / "status.json") or {})["exit_code"] == 4


def test_a_missing_file_of_someone_else_stays_what_it_is(tmp_path: Path) -> None:
    def run() -> None:
        with RunFolder(tmp_path / "run") as folder:
            take(folder)
            (tmp_path / "elsewhere").read_text()

    with pytest.raises(FileNotFoundError):
        run()


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    unfinished(tmp_path / "run")
    before = tree(tmp_path)
    with RunFolder(tmp_path / "run", writer=False) as folder:
        folder.update(step=21)
        folder.rewind(0)
        folder.finish({})
    assert tree(tmp_path) == before


def test_no_secret_reaches_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = "canary-0123456789"
    monkeypatch.setenv("MY_API_KEY", canary)
    record = {
        "overrides": [f"data.path=https://user:{canary}@host/x", f"api_key={canary}"],
        "config": {"path": canary, canary: 1, "password": "hunter2"},
        "science": {"data.path": canary},
    }
    with RunFolder(tmp_path / "run") as folder:
        folder.open(record, find_checkpoint=find)
        folder.record(device=canary)
        folder.update(reason=f"cannot reach {canary}")
    with pytest.raises(ValueError, match=canary):
        leave_by(ValueError(canary), RunFolder(tmp_path / "run"), record)
    written = b"".join(tree(tmp_path).values())
    assert canary.encode() not in written
    assert b"hunter2" not in written
    with RunFolder(tmp_path / "run") as folder:  # what was starred out does not count as changed
        assert folder.open(record, find_checkpoint=find).attempt == 3


def test_nobody_else_may_write_what_a_run_leaves(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        unfinished(tmp_path / "run")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "run").rglob("*")}
    assert modes[".lock"] == 0o600
    assert modes["status.json"] == 0o644
    assert modes["checkpoints"] == 0o755


def test_opening_a_finished_run_imports_no_torch(tmp_path: Path) -> None:
    script = f"""
        import sys
        from moe_bench.monitor.folder import RunFolder
        with RunFolder({str(tmp_path)!r}) as folder:
            folder.open({{}}, find_checkpoint=lambda _: None)
            folder.finish({{}})
        print([name for name in ("torch", "lightning", "hydra", "wandb", "rich") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
