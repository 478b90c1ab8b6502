from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback
from rich.console import Console

from moe_bench.config.schema import RouterConfig, SoftRouterConfig, SparseRouterConfig
from moe_bench.monitor.console import make_console
from moe_bench.monitor.progress import RunProgress, figures, routing_figure
from moe_bench.monitor.telemetry import RoutingTelemetry
from moe_bench.monitor.throughput import StepClock, Throughput

from .tiny import BATCH, fit


def shown(console: Console, folder: Path, steps: int = 20, extra: tuple[Callback, ...] = (), **options: Any) -> None:
    clock = StepClock()
    throughput = Throughput(clock, BATCH, log_every=2)
    progress = RunProgress(console, throughput, validation_batches=3)
    callbacks = [throughput, RoutingTelemetry(folder, 2, BATCH), progress, *extra]
    fit(folder, steps, callbacks=callbacks, profiler=clock, **options)


def test_a_pipe_gets_plain_lines_at_the_first_step_and_each_tenth(tmp_path: Path) -> None:
    out = io.StringIO()
    shown(make_console(out), tmp_path, pieces=2, eval_every=10)
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue()
    steps = [int(m[1]) for line in lines if (m := re.match(r"step +(\d+)/20 · loss", line))]
    assert steps == [1, *range(2, 21, 2)]
    assert re.search(r"step 10/20 · validation: prec@1 .+ % · loss \d\.\d+ · \d+", out.getvalue())
    last = next(line for line in lines if line.startswith("step 20/20 · loss"))
    assert "img/s" in last
    assert "of tokens uncovered" in last
    assert "left" not in last


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_gets_a_bar_that_fits_with_the_same_facts(tmp_path: Path, columns: int) -> None:
    out = io.StringIO()
    shown(Console(file=out, force_terminal=True, width=columns, color_system=None), tmp_path, eval_every=10)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    lines = re.split(r"[\r\n]+", text)
    assert max(map(len, lines)) <= columns
    done = next(line for line in lines if line.startswith("step 20/20") and "loss" in line)
    assert "━━━" in done
    assert "img/s" in done
    assert ("uncovered" in done) == (columns == 120)
    assert any(line.startswith("validation") for line in lines)
    assert any("validation: prec@1" in line for line in lines)


def test_the_bar_lets_go_of_the_terminal_when_a_run_fails(tmp_path: Path) -> None:
    class Fail(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            raise ValueError("boom")

    out = io.StringIO()
    with pytest.raises(ValueError, match="boom"):
        shown(Console(file=out, force_terminal=True, width=80), tmp_path, extra=(Fail(),))
    assert out.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is shown again


@pytest.mark.parametrize(
    ("router", "words"),
    [
        (SparseRouterConfig(choice="token"), r"\d+\.\d % of tokens dropped"),
        (SparseRouterConfig(choice="expert"), r"\d+\.\d % of tokens uncovered"),
        (SoftRouterConfig(), r"a slot mixes \d+\.\d tokens"),
    ],
)
def test_each_kind_of_router_shows_one_figure(tmp_path: Path, router: RouterConfig, words: str) -> None:
    out = io.StringIO()
    shown(make_console(out), tmp_path, steps=4, router=router)
    last = next(line for line in out.getvalue().splitlines() if line.startswith("step 4/4 · loss"))
    assert re.search(f" · {words}$", last)
    assert len(re.findall(r"tokens", last)) == 1


def test_a_phase_is_visible_in_a_pipe() -> None:
    out = io.StringIO()
    progress = RunProgress(make_console(out), Throughput(StepClock(), BATCH))
    with progress.phase("probe", 2) as advance:
        advance()
        advance()
    assert out.getvalue() == "probe: 2 batches …\n"
    progress.disable()
    with progress.phase("probe", 2) as advance:
        advance()
    assert out.getvalue() == "probe: 2 batches …\n"


def test_unknown_facts_are_left_out() -> None:
    assert figures({}, None, None) == []
    assert figures({"val/prec1": 0.5}, 1234.0, 61.2) == ["val prec@1 50.0 %", "1,234 img/s", "1 min 01 s left"]
    assert routing_figure({}) == []
