"""The Python, the packages and the devices, beside those that moe-bench is tested with."""

from __future__ import annotations

import platform
import re
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

import moe_bench
from moe_bench.config import Config
from moe_bench.doctor.finding import NOTE, OFF, OK, Finding
from moe_bench.monitor.environment import version
from moe_bench.monitor.units import size

TESTED_PYTHONS = ("3.11", "3.12")


def python() -> Finding:
    found = platform.python_version()
    if found.rpartition(".")[0] in TESTED_PYTHONS:
        return Finding(OK, "python", found)
    return Finding(NOTE, "python", f"{found}; tested with {' and '.join(TESTED_PYTHONS)}")


def packages() -> list[Finding]:
    """A line for each package that is missing, too old or too new; one for all that are as tested."""
    tested, findings, same = tested_versions(), list[Finding](), 0
    for needed in requirements():
        found, as_tested = version(needed.name), tested.get(_plain(needed.name))
        if found is None:
            findings.append(Finding(OFF, needed.name, "not installed", f"pip install '{needed}'"))
        elif not needed.specifier.contains(found, prereleases=True):
            findings.append(Finding(OFF, needed.name, f"{found}, but {needed.specifier} is needed", _install(needed)))
        elif as_tested not in (None, found.partition("+")[0]):  # "+cpu" and the like name a build
            findings.append(Finding(NOTE, needed.name, f"{found}; tested with {as_tested}"))
        else:
            same += 1
    return [Finding(OK, "packages", f"{same} as tested (constraints.txt)"), *findings]


def requirements() -> list[Requirement]:
    """What moe-bench itself asks for, extras left out."""
    asked = [Requirement(line) for line in metadata.requires("moe-bench") or []]
    return [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]


def tested_versions() -> dict[str, str]:
    """Package → version, from constraints.txt: in the package when installed from a wheel, else in the checkout."""
    package = Path(moe_bench.__file__).resolve().parent
    files = (package / "constraints.txt", package.parent / "constraints.txt")
    lines = next((file.read_text(encoding="utf-8").splitlines() for file in files if file.exists()), [])
    pairs = [line.split("==", 1) for line in lines if "==" in line and not line.startswith("#")]
    return {_plain(name): number.strip() for name, number in pairs}


def devices(configs: list[Config]) -> Finding:
    """torch and what it computes on, against what the runs ask for."""
    try:
        import torch
    except Exception as error:  # a broken build says so in many ways
        return Finding(OFF, "torch", f"cannot be imported: {type(error).__name__}: {error}", "install torch again")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = [torch.cuda.get_device_properties(number) for number in range(count)]
    gpus = ", ".join(f"{one.name} ({size(one.total_memory)})" for one in there)
    found = f"{torch.__version__} on {gpus or f'a CPU, {torch.get_num_threads()} threads; no GPU'}"
    wanted = max((c.runtime.devices for c in configs if c.runtime.accelerator == "gpu"), default=0)
    if wanted > count:
        remedy = "runtime.accelerator=cpu, or a torch for your driver: https://pytorch.org/get-started"
        return Finding(OFF, "torch", f"{found}; runtime asks for {wanted} GPU{'s' * (wanted > 1)}", remedy)
    return Finding(OK, "torch", found)


def _install(needed: Requirement) -> str:
    return f"pip install '{needed.name}{needed.specifier}'"


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
