from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from moe_bench.training import memory


def test_a_container_with_a_limit_leaves_what_it_has_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, used = tmp_path / "memory.max", tmp_path / "memory.current"
    limit.write_text("3000\n")
    used.write_text("1000\n")
    monkeypatch.setattr(memory, "LIMITS", ((limit, used),))
    assert memory.free_bytes("cpu") == 2000


@pytest.mark.parametrize("limit", ["max\n", None])
def test_without_a_limit_the_machine_decides(
    limit: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    monkeypatch.setattr(memory, "LIMITS", ((tmp_path / "memory.max", tmp_path / "memory.current"),))
    assert memory.free_bytes("cpu") == pytest.approx(psutil.virtual_memory().available, rel=0.2)
