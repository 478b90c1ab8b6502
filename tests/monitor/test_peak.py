from __future__ import annotations

import pytest
import torch

from moe_bench.monitor.peak import Peak, peak


@pytest.mark.parametrize(
    ("name", "precision", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16-mixed", 989.4),
        ("NVIDIA H100 PCIe", "bf16-mixed", 756.0),
        ("NVIDIA A100-SXM4-40GB", "32-true", 19.5),
        ("NVIDIA L40S", "bf16-mixed", 362.0),
        ("Tesla T4", "32-true", 8.1),
    ],
)
def test_a_gpu_has_the_figures_of_its_data_sheet(name: str, precision: str, tera: float) -> None:
    found = peak("gpu", name, precision)
    assert found.flops_per_s == tera * 1e12
    assert name in found.source


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA L40",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 3090 Ti",
    ],
)
def test_a_device_of_almost_the_same_name_has_not_its_figures(name: str) -> None:
    assert peak("gpu", name, "bf16-mixed") == Peak(None, f"unknown: no data sheet of {name} at hand")


def test_what_is_not_known_is_absent_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peak("gpu", "Tesla T4", "bf16-mixed") == Peak(None, "unknown: Tesla T4 has no bfloat16")
    assert peak("gpu", "Abacus 3000", "32-true") == Peak(None, "unknown: no data sheet of Abacus 3000 at hand")
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert peak("gpu", "NVIDIA L4", "32-true").flops_per_s is None


def test_a_cpu_is_measured_and_says_so() -> None:
    found = peak("cpu", "CPU", "32-true")
    assert found.flops_per_s is not None
    assert 1e8 < found.flops_per_s < 1e14
    assert found.source.startswith("measured: float32")
    assert peak("cpu", "CPU", "32-true") == found  # once a process
