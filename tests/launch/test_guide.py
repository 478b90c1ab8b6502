"""What docs/clusters.md tells a reader to type is understood, and refused where it says so."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from moe_bench.config.launchers import LocalLauncher, SlurmLauncher
from moe_bench.config.sweep import Plan, plan

GUIDE = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL)


def planned(line: str) -> Plan:
    words = shlex.split(line.partition(" &")[0], comments=True)
    start = words.index("moe-bench") if "moe-bench" in words else words.index("moe_bench")
    settings = [word for word in words[start + 1 :] if word not in ("-m", "--dry-run")]
    return plan(settings, multirun="-m" in words[start:])


def test_every_command_is_understood() -> None:
    lines = "\n".join(BLOCKS).replace("\\\n", " ").splitlines()
    plans = [planned(line) for line in lines if re.search(r"moe.bench (-m )?\w+=", line)]
    assert len(plans) == 6
    assert [len(asked.cells) for asked in plans if asked.is_sweep] == [9, 9, 9]
    assert {type(asked.launcher) for asked in plans} == {LocalLauncher, SlurmLauncher}


def test_the_batch_script_is_good_bash() -> None:
    (script,) = (text for text in BLOCKS if text.startswith("#!/bin/bash"))
    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).stderr == ""


@pytest.mark.parametrize("setting", sorted(set(re.findall(r"hydra\.launcher\.(\w+)", GUIDE))))
def test_every_setting_exists(setting: str) -> None:
    assert hasattr(LocalLauncher(), setting) or hasattr(SlurmLauncher(), setting)
