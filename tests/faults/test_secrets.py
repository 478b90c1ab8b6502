"""Keys, passwords and logins are in no file and on no screen, whatever becomes of a run: row 48 of the fault matrix."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from faults.test_wandb import CACHE, CLOSED, TINY

CANARY = "canary-77aa"
SECRETS = {
    "WANDB_API_KEY": CANARY + "1" * 40,
    "HF_TOKEN": f"{CANARY}-token",
    "AWS_SECRET_ACCESS_KEY": f"{CANARY}-access",
    "CLIENT_SECRET": f"{CANARY}-client",
    "DB_PASSWORD": f"{CANARY}-word",
}
TYPED = f"['{CANARY}-token','https://me:{CANARY}@host/x','password={CANARY}']"
"""A value of the environment, a login in an address and a password, as an override may hold them."""

CRASHING = """
class Crash:
    def __init__(self, *given, **named):
        import os
        raise RuntimeError("no https://me:" + os.environ["CLIENT_SECRET"] + "@host with " + os.environ["HF_TOKEN"])
"""


def moe_bench(here: Path, *words: str) -> tuple[int, str]:
    """Exit code, and all that it printed."""
    (here / "crashing.py").write_text(CRASHING)
    environment = {
        **os.environ, **SECRETS, "HOME": str(here), "MOE_BENCH_CACHE": str(CACHE), "WANDB_BASE_URL": CLOSED,
        "OMP_NUM_THREADS": "1", "MOE_BENCH_DEBUG": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "moe_bench", *words]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def leaks(here: Path) -> list[str]:
    """The files in which a canary stands."""
    files = [path for path in here.rglob("*") if path.is_file()]
    return [str(path.relative_to(here)) for path in files if CANARY.encode() in path.read_bytes()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], 0),
        (["router.name=crashing", "router.impl=crashing:Crash"], 2),
        (["-m", "seed=1,2", "hydra.launcher.jobs=2"], 0),
        (["-m", "seed=1,2", "router.name=crashing", "router.impl=crashing:Crash"], 8),
    ],
    ids=["run", "crash", "sweep", "crashing sweep"],
)
def test_row_48_secrets_stand_in_no_file_of_a_run_and_on_no_screen(words: list[str], code: int, tmp_path: Path) -> None:
    got, printed = moe_bench(tmp_path, *TINY, f"logger.tags={TYPED}", *words)
    assert got == code, printed
    assert CANARY not in printed
    assert leaks(tmp_path) == []
    assert list(tmp_path.glob("runs/*/run.json"))
    assert list(tmp_path.glob("runs/*/wandb/offline-run-*/*.wandb")) or code != 0


@pytest.mark.parametrize(
    "words",
    [
        [f"logger.api_key={CANARY}"],
        [f"logger.tagz=https://me:{CANARY}@host/x"],
        [f"router={CANARY}-token"],
    ],
)
def test_row_48_a_mistake_is_told_without_the_secret_in_it(words: list[str], tmp_path: Path) -> None:
    code, printed = moe_bench(tmp_path, *TINY, *words)
    assert code == 2, printed
    assert "moe-bench: " in printed
    assert CANARY not in printed
    assert leaks(tmp_path) == []


def test_row_48_shards_that_cannot_be_had_are_told_without_the_login_and_the_key_in_their_address(
    tmp_path: Path,
) -> None:
    address = f"https://me:{CANARY}@127.0.0.1:9/{{a.tar?token={CANARY}/1"
    code, printed = moe_bench(tmp_path, *TINY, "data=shards", f"data.train='{address}'", f"data.val='{address}'")
    assert code == 2, printed
    assert CANARY not in printed
    assert leaks(tmp_path) == []
    (run,) = tmp_path.glob("runs/*/run.json")  # it went as far as opening its folder
    assert CANARY not in str(run)


def test_row_48_settings_are_shown_without_their_secrets(tmp_path: Path) -> None:
    code, printed = moe_bench(tmp_path, "--cfg", "job", "logger=wandb", f"logger.tags={TYPED}")
    assert code == 0
    assert "https://***@host/x" in printed
    assert CANARY not in printed
