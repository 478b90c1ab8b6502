"""F. Checkpoints, settings and names from somebody else. Rows 44, 47 and 50 of the fault matrix.

The payload of each attack makes a file; the tests look for it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

from faults.command import TINY, moe_bench, only_run


class Payload:
    """Unpickling it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


class Nested:
    """A storage whose bytes are a checkpoint of their own, which torch would read without any care."""

    def __init__(self, evil: Any) -> None:
        self.evil = evil

    def __reduce__(self) -> Any:
        inner = io.BytesIO()
        torch.save(self.evil, inner, _use_new_zipfile_serialization=False)
        return torch.storage._load_from_bytes, (inner.getvalue(),)


def replaced(checkpoint: Path, evil: Any, how: str) -> None:
    """Put ``evil`` into a checkpoint, with a manifest that fits: an attacker can write one as well as we."""
    state = checkpoint / "state.ckpt"
    if how == "pickle":
        state.write_bytes(pickle.dumps(evil))
    else:
        torch.save(Nested(evil) if how == "nested" else evil, state, _use_new_zipfile_serialization=how != "legacy")
    data = state.read_bytes()
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    forged = {**manifest, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (checkpoint / "manifest.json").write_text(json.dumps(forged))


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle", "nested"])
def test_row_44_a_checkpoint_that_would_run_code_is_exit_code_9_for_every_command_that_loads_one(
    here: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    assert moe_bench(*TINY) == 0
    run, marker = only_run(here), here / "marker"
    replaced(run / "checkpoints" / "step-00000002", {"state_dict": Payload(marker)}, how)
    capsys.readouterr()
    for verb in (["probe", str(run), "--shots", "1"], ["export", str(run)]):
        assert moe_bench(*verb) == 9
        assert "state.ckpt" in capsys.readouterr().err
    (run / "summary.json").unlink()
    assert moe_bench(*TINY) == 9  # resumes
    told = capsys.readouterr().err
    assert "state.ckpt" in told
    assert "Traceback" not in told
    assert not marker.exists()


def test_row_44_classes_that_a_checkpoint_names_are_never_imported(here: Path) -> None:
    """Lightning once called what hyper-parameters name; a run has none and takes none."""
    assert moe_bench(*TINY) == 0
    run, marker = only_run(here), here / "marker"
    folder = run / "checkpoints" / "step-00000002"
    state = torch.load(folder / "state.ckpt", weights_only=True)
    named = {"_instantiator": "evil.make", "_class_path": "evil.Make", "class_path": "evil.Make"}
    replaced(folder, {**state, "hyper_parameters": named, "hparams_name": "kwargs"}, "zip")
    (here / "evil.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    (run / "summary.json").unlink()
    assert moe_bench(*TINY) == 0
    assert not marker.exists()


@pytest.mark.parametrize(
    "typed",
    [
        "probe._target_=os.system",
        "+x._target_=torch.load",
        "+router.options._target_=logging.os.system",
        "router.options={_target_:builtins.open,_args_:[marker,w]}",
        "data.path=${oc.env:HOME}",
        "logger.project=${oc.env:SECRET,none}",
    ],
)
def test_row_47_a_setting_that_calls_code_or_reads_the_environment_is_exit_code_9(here: Path, typed: str) -> None:
    assert moe_bench(typed, *TINY) == 9
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    "typed",
    [
        "hydra.run.dir=../../x",
        "hydra.searchpath=[file:///tmp]",
        "hydra/launcher=nothing",
        "+typo=1",
    ],
)
def test_row_47_no_setting_of_hydra_leads_a_run_elsewhere(here: Path, typed: str) -> None:
    code = moe_bench(typed, *TINY)
    assert code in (0, 2)
    assert {path.name for path in here.iterdir()} <= {"runs"}
    assert not (here.parent.parent / "x").exists()


@pytest.mark.parametrize("name", ["../../out", "a/b", "a\nb", "<script>alert(1)</script>"])
def test_row_47_a_name_cannot_leave_the_folder_of_runs(here: Path, name: str) -> None:
    """A name that cannot be typed is a mistake; one that can becomes letters, digits, points and underscores."""
    code = moe_bench(f"data.name='{name}'", *TINY)
    assert code in (0, 2)
    assert {path.name for path in here.iterdir()} <= {"runs"}
    if code == 0:
        assert all(letter.isalnum() or letter in "._-" for letter in only_run(here).name)


@pytest.mark.parametrize("umask", [0o022, 0o000])
def test_row_50_nobody_else_may_write_what_a_whole_run_leaves(here: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        assert moe_bench(*TINY) == 0
    finally:
        os.umask(before)
    run = only_run(here)
    modes = {path.relative_to(run): stat.S_IMODE(path.stat().st_mode) for path in [run, *run.rglob("*")]}
    assert {path for path, mode in modes.items() if mode & stat.S_IWOTH} == set()
    assert modes[Path(".lock")] == 0o600
    assert modes[Path("status.json")] & stat.S_IROTH
