"""Runs at once have GPUs of their own, or their part of the CPU's threads."""

from __future__ import annotations

import os

import pytest

from moe_bench.config import load
from moe_bench.errors import ConfigError
from moe_bench.launch.share import find_gpus, shares

FOUR = {"CUDA_VISIBLE_DEVICES": "0,1,GPU-7f,3"}


def test_one_run_at_a_time_has_the_whole_machine() -> None:
    assert shares(1, [load(["runtime.devices=2"])], FOUR) == [{}]


def test_each_run_has_gpus_of_its_own() -> None:
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shares(3, [load()], FOUR)] == ["0", "1", "GPU-7f"]
    of_two = shares(2, [load(), load(["runtime.devices=2"])], FOUR)
    assert [share["CUDA_VISIBLE_DEVICES"] for share in of_two] == ["0,1", "GPU-7f,3"]


def test_more_gpus_than_there_are_is_refused_with_both_numbers() -> None:
    with pytest.raises(ConfigError, match=r"jobs=3 with runtime\.devices=2 needs 6 GPUs, and 4 are here.*jobs=2"):
        shares(3, [load(["runtime.devices=2"])], FOUR)


def test_the_cpu_is_shared_out_in_threads() -> None:
    cores = len(os.sched_getaffinity(0))
    no_gpu = {"CUDA_VISIBLE_DEVICES": ""}
    assert shares(2, [load()], no_gpu) == [{"OMP_NUM_THREADS": str(max(1, cores // 2))}] * 2
    assert shares(10 * cores, [load()], no_gpu)[0] == {"OMP_NUM_THREADS": "1"}
    assert shares(2, [load(["runtime=cpu"])], FOUR)[0].keys() == {"OMP_NUM_THREADS"}
    assert shares(2, [load()], {**no_gpu, "OMP_NUM_THREADS": "5"}) == [{}, {}]  # the user's word stands


def test_hidden_gpus_are_none() -> None:
    assert find_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == find_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
