from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from moe_bench.monitor.telemetry import RoutingTelemetry
from moe_bench.monitor.wandb_logger import WandbLogger
from moe_bench.monitor.wandb_server import choose_mode

from .tiny import BATCH, fit

CLOSED = "http://127.0.0.1:9"
NAMES = ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE", "NETRC")


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield
    if (wandb := sys.modules.get("wandb")) is not None:
        with contextlib.suppress(Exception):  # the service that a test killed
            wandb.teardown()


def logger(folder: Path, said: list[str], **options: Any) -> WandbLogger:
    folder.mkdir(exist_ok=True)
    return WandbLogger(folder, project="moe-bench", batch=BATCH, say=said.append, **{"config": {}, **options})


def missing(folder: Path, wanted: Sequence[bytes]) -> list[bytes]:
    """What W&B's file in ``folder`` does not have. Its service may write the last of it after a run has ended."""
    (stored,) = (folder / "wandb").glob("offline-run-*/run-run-id.wandb")
    until = time.monotonic() + 20
    while (absent := [text for text in wanted if text not in stored.read_bytes()]) and time.monotonic() < until:
        time.sleep(0.1)
    return absent


def test_a_run_without_a_key_is_kept_offline_in_its_folder_and_one_line_says_how_to_upload(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "canary-0123456789")
    said: list[str] = []
    config = {"router": {"name": "soft"}, "path": "s3://canary-0123456789/x"}
    wandb = logger(tmp_path / "run-id", said, config=config, tags=["soft", "c1"], group="grid")
    started = time.monotonic()
    fit(tmp_path, 4, loggers=[wandb])
    wandb.close(summary={"val/prec1": 0.5})
    assert time.monotonic() - started < 30
    assert wandb.failures == 0
    (line,) = said
    assert line.startswith("W&B: offline (no key for api.wandb.ai); to upload: moe-bench sync")
    assert missing(tmp_path / "run-id", (b"samples_seen", b"train/loss", b"val/prec1", b"grid", b"soft")) == []
    files = [path for path in (tmp_path / "run-id").rglob("*") if path.is_file()]
    assert not any(b"canary" in path.read_bytes() for path in files)
    printed = capfd.readouterr()
    assert "wandb" not in printed.out + printed.err


def test_detailed_telemetry_is_there_as_numbers_and_histograms_of_each_layer(tmp_path: Path) -> None:
    said: list[str] = []
    wandb = logger(tmp_path / "run-id", said)
    fit(tmp_path, 4, loggers=[wandb], callbacks=[RoutingTelemetry(tmp_path, 2, BATCH, detailed=True)])
    wandb.close()
    assert (wandb.failures, len(said)) == (0, 1)
    wanted = (b"routing/worst/uncovered", b"routing/blocks.1/uncovered", b"routing/blocks.1/load", b"histogram")
    assert missing(tmp_path / "run-id", wanted) == []


def test_a_missing_package_is_told_once_and_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    said: list[str] = []
    wandb = logger(tmp_path / "run", said)
    trainer = fit(tmp_path, 4, loggers=[wandb])
    wandb.close()
    assert trainer.global_step == 4
    assert (len(said), wandb.failures) == (1, 1)
    assert said[0].startswith("W&B is off for the rest of this run")


def test_a_service_that_dies_midway_never_reaches_the_training(tmp_path: Path) -> None:
    said: list[str] = []
    wandb = logger(tmp_path / "run", said)
    wandb.log_metrics({"a": 1.0}, step=1)
    mine = psutil.Process(os.getpid()).children(recursive=True)
    services = [child for child in mine if "wandb" in " ".join(child.cmdline())]
    assert services
    for service in services:
        service.kill()
        service.wait()
    for step in range(2, 200):
        wandb.log_metrics({"a": 1.0}, step=step)
    wandb.close(exit_code=1)
    assert len(said) == 2
    assert "off for the rest" in said[1]


def test_python_exits_quietly_after_the_service_died(tmp_path: Path) -> None:
    script = f"""
        import psutil
        from pathlib import Path
        from moe_bench.monitor.wandb_logger import WandbLogger
        wandb = WandbLogger(Path({str(tmp_path)!r}), project="p", config={{}}, batch=1, say=lambda text: None)
        wandb.log_metrics({{"a": 1.0}}, step=1)
        for child in psutil.Process().children(recursive=True):
            child.kill()
        for step in range(2, 100):
            wandb.log_metrics({{"a": 1.0}}, step=step)
        wandb.close(1)
        print(wandb.failures)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


@pytest.mark.parametrize(
    ("mode", "environ", "chosen", "why"),
    [
        ("auto", {}, "offline", "no key"),
        ("online", {}, "offline", "no key"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_BASE_URL": CLOSED}, "offline", "127.0.0.1 does not answer"),
        ("offline", {"WANDB_API_KEY": "k"}, "offline", "as asked"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, "offline", "as asked"),
        ("auto", {"WANDB_MODE": "disabled"}, "disabled", "as asked"),
        ("auto", {"WANDB_API_KEY": "k", "HTTPS_PROXY": "http://proxy"}, "online", ""),
    ],
)
def test_online_only_with_a_key_and_a_server_that_answers(
    mode: str, environ: dict[str, str], chosen: str, why: str
) -> None:
    started = time.monotonic()
    found = choose_mode(mode, {"HOME": "/nowhere", **environ})
    assert found[0] == chosen
    assert why in found[1]
    assert time.monotonic() - started < 3


def test_a_key_in_netrc_counts(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("machine api.wandb.ai login user password k\n")
    proxy = {"HTTPS_PROXY": "http://proxy"}
    assert choose_mode("auto", {"NETRC": str(tmp_path / "mine"), **proxy})[0] == "online"
    assert choose_mode("auto", {"NETRC": str(tmp_path / "none"), **proxy})[0] == "offline"


def test_importing_the_logger_does_not_import_wandb() -> None:
    script = "import sys, moe_bench.monitor.wandb_logger; print('wandb' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
