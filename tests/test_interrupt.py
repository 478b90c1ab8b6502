"""Ctrl-C and SIGTERM, as early as they can come and in places where Python loses them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "moe-bench"
QUICK = ["debug=fast", "model.image_size=32", "logger=none", "runtime.workers=0"]


def run(code: str, *words: str, cwd: Path, ignored: bool = False) -> subprocess.Popen[str]:
    """Start Python on ``code``; with SIGINT ignored from the start, as by a shell for a command in the background."""
    before = signal.getsignal(signal.SIGINT)
    try:
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        pipe = subprocess.PIPE
        return subprocess.Popen([sys.executable, "-c", code, *words], cwd=cwd, stdout=pipe, stderr=pipe, text=True)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("after_ms", range(0, 301, 30))
def test_an_early_ctrl_c_is_exit_code_130_and_no_traceback(tmp_path: Path, after_ms: int) -> None:
    with run("print('begun', flush=True)\n" + SCRIPT.read_text(), *QUICK, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(after_ms / 1000)
        process.send_signal(signal.SIGINT)
        said = process.communicate()
    assert process.returncode == 130, said
    assert "Traceback" not in "".join(said)
    assert said[1].count("interrupted") <= 1


def within(command: str) -> str:
    """Code that runs ``command``, the body of a function, as the console script does."""
    return (
        "import os, signal, sys\nfrom moe_bench import guard, interrupt\n"
        f"def command():\n    {command}\n    print('done')\n    return 0\n"
        "sys.exit(interrupt.answered(lambda: lambda: guard.guarded(command)))"
    )


CTRL_C = "os.kill(os.getpid(), signal.SIGINT)"
SIGTERM = "os.kill(os.getpid(), signal.SIGTERM)"


@pytest.mark.parametrize(
    "command",
    [
        CTRL_C,
        f"type('T', (), {{'__del__': lambda self: {CTRL_C}}})()",
        f"try: {CTRL_C}\n    except KeyboardInterrupt: raise ImportError('half imported')",
        f"from moe_bench.errors import DataError as D\n    try: {CTRL_C}\n    except KeyboardInterrupt: raise D('cut')",
    ],
    ids=["plainly", "in a callback of the interpreter", "made an error by a library", "and told as one of ours"],
)
def test_ctrl_c_is_never_lost_nor_taken_for_a_bug(tmp_path: Path, command: str) -> None:
    with run(within(command), cwd=tmp_path) as process:
        assert process.communicate() == ("", "moe-bench: interrupted\n")
    assert process.returncode == 130


def test_a_command_in_the_background_goes_on(tmp_path: Path) -> None:
    with run(within(CTRL_C), cwd=tmp_path, ignored=True) as process:
        assert process.communicate() == ("done\n", "")
    assert process.returncode == 0


@pytest.mark.parametrize("ignored", [False, True], ids=["", "in the background"])
def test_sigterm_before_there_is_anything_to_save_is_exit_code_143(tmp_path: Path, ignored: bool) -> None:
    with run(within(SIGTERM), cwd=tmp_path, ignored=ignored) as process:
        assert process.communicate() == ("", "moe-bench: stopped by SIGTERM\n")
    assert process.returncode == 143


def test_sigterm_while_modules_load_is_exit_code_143_and_no_traceback(tmp_path: Path) -> None:
    loading = (
        f"import os, signal, sys\nfrom moe_bench import interrupt\nsys.exit(interrupt.answered(lambda: {SIGTERM}))"
    )
    with run(loading, cwd=tmp_path) as process:
        assert process.communicate() == ("", "moe-bench: stopped by SIGTERM\n")
    assert process.returncode == 143
