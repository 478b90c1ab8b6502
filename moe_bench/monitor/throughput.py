"""How fast a run trains and what it costs.

A step's time is that of fetching its pictures, moving them and computing on them; validation, probes, checkpoints and
logging are not training and do not count. Lightning tells its profiler when each begins and ends, so that is where the
clock sits. The process's CPU time is read there too: where others use the machine as well, it shows how much of the
time went in waiting for a core. A GPU works behind the program's back, so times are read after it has caught up, once
a window of ``log_every`` steps, and medians are over windows.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import Profiler

from moe_bench.monitor.peak import Peak

FETCH = ("train_dataloader_next",)
COMPUTE = ("batch_to_device", "run_training_batch")
WARMUP_STEPS = 10
WINDOWS_KEPT = 1000
DAY_S = 86400.0
UNKNOWN = Peak(None, "unknown")


class StepClock(Profiler):
    """Adds up the seconds of fetching and of computing in training; passes everything on to the profiler ``inner``."""

    def __init__(self, inner: Profiler | None = None) -> None:
        super().__init__()
        self.fetch_s = 0.0
        self.compute_s = 0.0
        self.cpu_s = 0.0  # of all threads of this process, in both
        self._inner = inner
        self._started: dict[str, tuple[float, float]] = {}

    def start(self, action_name: str) -> None:
        if action_name.endswith(FETCH + COMPUTE):
            self._started[action_name] = time.perf_counter(), time.process_time()
        if self._inner is not None:
            self._inner.start(action_name)

    def stop(self, action_name: str) -> None:
        if self._inner is not None:
            self._inner.stop(action_name)
        started = self._started.pop(action_name, None)
        if started is None:
            return
        elapsed = time.perf_counter() - started[0]
        self.cpu_s += time.process_time() - started[1]
        if action_name.endswith(FETCH):
            self.fetch_s += elapsed
        else:
            self.compute_s += elapsed

    def summary(self) -> str:
        return "" if self._inner is None else self._inner.summary()


class Throughput(Callback):
    """Must come first in the list of callbacks. ``batch`` is pictures a step over ``devices`` devices.

    ``flops_per_image`` of training and the ``peak`` of one device make the utilisation (MFU).
    """

    def __init__(
        self,
        clock: StepClock,
        batch: int,
        devices: int = 1,
        log_every: int = 10,
        *,
        flops_per_image: float = 0.0,
        peak: Peak = UNKNOWN,
    ) -> None:
        self.clock = clock
        self._batch = batch
        self._devices = devices
        self._log_every = max(1, log_every)
        self._flops_per_image = flops_per_image
        self._peak = peak
        self._train_s = 0.0
        self._device_s = 0.0  # of each attempt, with as many devices as it had
        self._cpu_s: float | None = 0.0  # None: of a run begun by a version that did not count it
        self._steps = 0  # measured, over all attempts of the run
        self._fetch_share: deque[float] = deque(maxlen=WINDOWS_KEPT)
        self._step_s: deque[float] = deque(maxlen=WINDOWS_KEPT)
        self._attempt_start = 0
        self._mark = 0  # the step at which the open window began
        self._at = 0

    @property
    def step_s(self) -> float | None:
        """Median seconds a step, after warm-up; of all steps while there is no full window after it."""
        if self._step_s:
            return median(self._step_s)
        return self._train_s / self._steps if self._steps else None

    @property
    def images_per_s(self) -> float | None:
        """Over all devices; while no window is full, of the steps so far."""
        step_s = self.step_s
        if step_s is None and self._at > self._mark:
            step_s = (self.clock.fetch_s + self.clock.compute_s) / (self._at - self._mark)
        return self._batch / step_s if step_s else None

    def mfu(self, images_per_s: float | None) -> float | None:
        """The share of the devices' peak FLOP/s that is put to use at so many pictures a second."""
        if not images_per_s or not self._peak.flops_per_s:
            return None
        return images_per_s * self._flops_per_image / (self._devices * self._peak.flops_per_s)

    def summary(self) -> dict[str, float | str | None]:
        """The cost rows of summary.json.

        ``cost/device_days``: devices × training seconds / 86400, each attempt with the devices that it had.
        ``cost/cpu_s``: seconds of CPU time in training, of all threads of this process, without those of its data
        processes.
        """
        step_s = self.step_s
        return {
            "time/train_s": self._train_s,
            "time/step_ms_median": None if step_s is None else 1000 * step_s,
            "time/data_wait_share": median(self._fetch_share) if self._fetch_share else None,
            "cost/device_days": self._device_s / DAY_S,
            "cost/images_per_s": self.images_per_s,
            "cost/cpu_s": self._cpu_s,
            "cost/mfu": self.mfu(self.images_per_s),
            "cost/peak_flops_per_s": self._peak.flops_per_s,
            "cost/peak_source": self._peak.source,
            "memory/peak_gb": peak_gb(),
        }

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._attempt_start = self._mark = self._at = trainer.global_step
        self.clock.fetch_s = self.clock.compute_s = self.clock.cpu_s = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = self._at = trainer.global_step
        warm = self._attempt_start + WARMUP_STEPS
        if step > self._mark and (step % self._log_every == 0 or step in (warm, trainer.max_steps)):
            self._close_window(step, pl_module, measured=self._mark >= warm)

    def _close_window(self, step: int, pl_module: LightningModule, measured: bool) -> None:
        wait = _wait_for(pl_module.device)
        fetch, total = self.clock.fetch_s, self.clock.fetch_s + self.clock.compute_s + wait
        steps = step - self._mark
        self._cpu_s = self._cpu_so_far()
        self.clock.fetch_s = self.clock.compute_s = self.clock.cpu_s = 0.0
        self._mark = step
        self._train_s += total
        self._device_s += self._devices * total
        self._steps += steps
        if measured:
            self._step_s.append(total / steps)
            self._fetch_share.append(fetch / total if total else 0.0)
        figures = {
            "throughput/images_per_s": steps * self._batch / total if total else 0.0,
            "throughput/step_ms": 1000 * total / steps,
            "throughput/data_wait_share": fetch / total if total else 0.0,
            "memory/peak_gb": peak_gb(),
        }
        if (mfu := self.mfu(figures["throughput/images_per_s"])) is not None:
            figures["throughput/mfu"] = mfu
        if step % self._log_every == 0:
            pl_module.log_dict(figures, on_step=True, on_epoch=False)

    def _cpu_so_far(self) -> float | None:
        return None if self._cpu_s is None else self._cpu_s + self.clock.cpu_s

    def state_dict(self) -> dict[str, Any]:
        open_s = self.clock.fetch_s + self.clock.compute_s
        return {
            "train_s": self._train_s + open_s,
            "device_s": self._device_s + self._devices * open_s,
            "devices": self._devices,
            "cpu_s": self._cpu_so_far(),
            "steps": self._steps + self._at - self._mark,
            "step_s": list(self._step_s),
            "fetch_share": list(self._fetch_share),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._train_s = state_dict["train_s"]
        self._device_s = state_dict.get("device_s", self._devices * self._train_s)
        self._cpu_s = state_dict.get("cpu_s")
        self._steps = state_dict["steps"]
        if state_dict.get("devices", self._devices) == self._devices:  # others say nothing about the pace of these
            self._step_s.extend(state_dict["step_s"])
            self._fetch_share.extend(state_dict["fetch_share"])


def peak_gb() -> float:
    """The most memory in use so far, in GB (1e9 bytes): of the GPU if there is one, else resident in this process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e9
    if sys.platform == "linux":  # its ru_maxrss is also that of the process that started this one
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _wait_for(device: torch.device) -> float:
    """Seconds until the device has done what was asked of it."""
    if device.type != "cuda":
        return 0.0
    started = time.perf_counter()
    torch.cuda.synchronize(device)
    return time.perf_counter() - started
