"""No number of ``tests/reference`` lies there for show: each array is asked for by a test that passes."""

from __future__ import annotations

from pathlib import Path

import pytest
from reference_numbers import FILES, FOLDER

HERE = Path(__file__).parent
READERS = [
    "routing/test_reference_numbers.py",
    "routing/test_transport_numbers.py",
    "model/test_reference_layer.py",
    "probe/test_ridge.py",
    "training/test_optim.py",
]


def test_every_array_of_every_file_is_asked_for_by_a_test_that_passes() -> None:
    """Runs the tests that read the files once more, in this process, and looks at what they asked for."""
    alone = ["-q", "--override-ini=addopts=", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:timeout"]
    assert pytest.main([*alone, "--rootdir", str(HERE.parent), *(str(HERE / file) for file in READERS)]) == 0
    unread = [f"{name}: {key}" for name, numbers in FILES.items() for key in numbers.arrays.keys() - numbers.read]
    assert not unread


def test_every_file_is_described() -> None:
    text = (FOLDER / "README.md").read_text()
    assert all(name.split("_std")[0] in text for name in FILES)
