"""The arrays in ``tests/reference``, and which of them a test has asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "reference"


class Numbers:
    """One file of arrays ``case/array``; ``read`` has the key of each that was asked for."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            self.arrays = dict(file)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> np.ndarray:
        self.read.add(key)
        return np.asarray(self.arrays[key])

    def tensor(self, key: str) -> Tensor:
        return torch.from_numpy(self[key].copy())

    def cases(self, array: str) -> list[str]:
        """All cases that have ``array``."""
        return [key.removesuffix(f"/{array}") for key in self.arrays if key.endswith(f"/{array}")]


FILES = {path.stem: Numbers(path) for path in sorted(FOLDER.glob("*.npz"))}
