from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback

from moe_bench.monitor.peak import Peak
from moe_bench.monitor.throughput import StepClock, Throughput, peak_gb

from .tiny import BATCH, fit

SLEEP_S = 0.15


class SleepAfterSteps(Callback):
    """Stands for a probe or a checkpoint: work that training waits for."""

    def on_train_batch_end(self, *args: Any) -> None:
        time.sleep(SLEEP_S)


class SleepInSteps(Callback):
    def on_before_backward(self, *args: Any) -> None:
        time.sleep(SLEEP_S)


def measured(folder: Path, extra: Callback, steps: int = 4) -> Throughput:
    clock = StepClock()
    throughput = Throughput(clock, BATCH, devices=2, log_every=2)
    fit(folder, steps, callbacks=[throughput, extra], profiler=clock)
    return throughput


def test_what_training_waits_for_does_not_count_as_training(tmp_path: Path) -> None:
    started = time.perf_counter()
    waited = measured(tmp_path, SleepAfterSteps()).summary()["time/train_s"]
    wall = time.perf_counter() - started
    worked = measured(tmp_path, SleepInSteps()).summary()["time/train_s"]
    assert waited is not None
    assert worked is not None
    assert waited <= wall - 4 * SLEEP_S
    assert worked >= 4 * SLEEP_S


def test_the_price_counts_every_device(tmp_path: Path) -> None:
    summary = measured(tmp_path, SleepInSteps()).summary()
    step_ms, train_s = summary["time/step_ms_median"], summary["time/train_s"]
    assert step_ms is not None
    assert train_s is not None
    assert summary["cost/device_days"] == pytest.approx(2 * train_s / 86400)
    assert summary["cost/images_per_s"] == pytest.approx(BATCH / step_ms * 1000)


def test_the_first_steps_are_left_out_of_the_median_but_not_of_the_price(tmp_path: Path) -> None:
    class SlowStart(Callback):
        def on_before_backward(self, trainer: Any, *args: Any) -> None:
            time.sleep(0.1 if trainer.global_step < 10 else 0)

    throughput = measured(tmp_path, SlowStart(), steps=20)
    windows = throughput.state_dict()["step_s"]
    assert len(windows) == 5  # of two steps each: the second half of the run
    assert throughput.step_s == pytest.approx(sorted(windows)[2])
    assert throughput.summary()["time/train_s"] >= sum(windows) * 2 + 10 * 0.1


def test_time_is_added_up_over_attempts(tmp_path: Path) -> None:
    first = measured(tmp_path, SleepInSteps())
    second = Throughput(StepClock(), BATCH, devices=2)
    second.load_state_dict(first.state_dict())
    assert second.summary()["time/train_s"] == pytest.approx(first.summary()["time/train_s"], rel=0.05)
    assert second.step_s == pytest.approx(first.step_s, rel=0.05)


def test_an_attempt_is_paid_for_with_the_devices_that_it_had(tmp_path: Path) -> None:
    first = measured(tmp_path / "on two", SleepInSteps(), steps=14)
    clock = StepClock()
    second = Throughput(clock, BATCH, log_every=2)
    second.load_state_dict(first.state_dict())
    assert second.state_dict()["step_s"] == []  # the pace is another
    paid = second.summary()["cost/device_days"]
    assert paid == pytest.approx(first.summary()["cost/device_days"], rel=0.05)
    trained = second.summary()["time/train_s"]
    fit(tmp_path / "on one", 4, callbacks=[second, SleepInSteps()], profiler=clock)
    more = second.summary()
    assert isinstance(trained, float)
    assert isinstance(paid, float)
    assert isinstance(more["time/train_s"], float)
    assert more["cost/device_days"] == pytest.approx(paid + (more["time/train_s"] - trained) / 86400)


def test_the_time_of_a_core_is_not_the_time_of_the_wall(tmp_path: Path) -> None:
    """Sleeping takes a run's time and no processor; work on a processor counts as both."""
    slept = measured(tmp_path, SleepInSteps()).summary()
    cpu_s, train_s = slept["cost/cpu_s"], slept["time/train_s"]
    assert isinstance(cpu_s, float)
    assert isinstance(train_s, float)
    assert 0 < cpu_s < train_s - 2 * SLEEP_S
    older = Throughput(StepClock(), BATCH)
    older.load_state_dict({"train_s": 1.0, "steps": 1, "step_s": [], "fetch_share": []})
    assert older.summary()["cost/cpu_s"] is None


def test_utilisation_is_work_done_over_work_possible(tmp_path: Path) -> None:
    clock, folder = StepClock(), tmp_path / "run"
    throughput = Throughput(
        clock, BATCH, devices=2, log_every=2, flops_per_image=3e6, peak=Peak(1e9, "data sheet of a toy")
    )
    fit(folder, 4, callbacks=[throughput], profiler=clock)
    found = throughput.summary()
    step_ms = found["time/step_ms_median"]
    assert isinstance(step_ms, float)
    assert found["cost/mfu"] == pytest.approx(3e6 * BATCH / (2 * 1e9 * step_ms / 1000))
    assert found["cost/peak_source"] == "data sheet of a toy"
    assert Throughput(clock, BATCH).mfu(100.0) is None  # of a device that nobody knows


def test_memory_is_that_of_this_process() -> None:
    block = bytearray(os.urandom(1)) * 1_000_000_000
    assert peak_gb() > 1.0
    del block
    small = [sys.executable, "-c", "from moe_bench.monitor.throughput import peak_gb; print(peak_gb())"]
    done = subprocess.run(small, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.0  # not that of the process which started it
