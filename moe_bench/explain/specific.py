"""Which classes experts collect: the mutual information of a token's class and its expert, and what chance gives.

The information of few pictures is never 0, even where experts know nothing of classes. What chance gives is the mean
over shuffles of the pictures' labels, which keep the tokens of a picture together.
N pictures, K classes, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SHUFFLES = 20


@dataclass(frozen=True)
class Specific:
    """How much classes and experts have to do with each other in one layer."""

    classes: list[int]  # those of the K rows below: classes that have a picture
    joint: Tensor  # (K, E) shares of the load, sum to 1
    terms: Tensor  # (K, E) bits: what each class adds to the information of each expert
    chance: Tensor  # (E,) bits of each expert with shuffled labels
    chance_bits: float  # of the layer with shuffled labels

    @property
    def bits(self) -> float:
        """The mutual information of class and expert."""
        return float(self.terms.sum(0) @ self.joint.sum(0))

    @property
    def of_expert(self) -> Tensor:
        """(E,) bits: how far the classes of each expert are from those of all (Kullback-Leibler divergence)."""
        return self.terms.sum(0)

    @property
    def lift(self) -> Tensor:
        """(K, E): how many times its fair share a class has in an expert; 1 is fair."""
        fair = self.joint.sum(1, keepdim=True) * self.joint.sum(0)
        return self.joint / fair.clamp_min(1e-30)

    def most(self, count: int) -> list[int]:
        """The experts that are furthest beyond chance."""
        return (self.of_expert - self.chance).argsort(descending=True, stable=True)[:count].tolist()

    def rows_of(self, expert: int, count: int) -> list[int]:
        """The rows of classes that an expert has beyond their fair share, those that add most to its bits."""
        order = self.terms[:, expert].argsort(descending=True, stable=True)[:count].tolist()
        return [number for number in order if self.terms[number, expert] > 0]


def specific(load: Tensor, labels: NDArray[np.int32]) -> Specific:
    """From what each expert got of each picture, ``load`` (N, E), and the labels (N, L), filled up with -1.

    A picture of several labels counts for each of them in equal parts.
    """
    classes = np.unique(labels[labels >= 0])
    member = _members(labels, classes)
    joint = _joint(load.double(), member)
    terms = _terms(joint)
    shuffled, rng = [], np.random.default_rng(0)
    for _ in range(SHUFFLES):
        shuffled.append(_joint(load.double(), member[torch.from_numpy(rng.permutation(len(member)))]))
    by_chance = torch.stack([_terms(one).sum(0) for one in shuffled])  # (SHUFFLES, E)
    in_all = torch.stack([bits @ one.sum(0) for bits, one in zip(by_chance, shuffled)])
    return Specific(classes.tolist(), joint, terms, by_chance.mean(0), float(in_all.mean()))


def _members(labels: NDArray[np.int32], classes: NDArray[np.int32]) -> Tensor:
    """(N, K), rows sum to 1 but for a picture without a label."""
    picture, place = np.nonzero(labels >= 0)
    member = torch.zeros(len(labels), len(classes), dtype=torch.float64)
    member[picture, np.searchsorted(classes, labels[picture, place])] = 1
    return member / member.sum(1, keepdim=True).clamp_min(1)


def _joint(load: Tensor, member: Tensor) -> Tensor:
    joint = member.T @ load
    return joint / joint.sum().clamp_min(1e-30)


def _terms(joint: Tensor) -> Tensor:
    """p(k|e) log₂ p(k|e)/p(k); 0 for an expert without load."""
    of_expert = joint / joint.sum(0).clamp_min(1e-30)
    overall = joint.sum(1, keepdim=True).clamp_min(1e-30)
    return torch.special.xlogy(of_expert, of_expert / overall) / np.log(2)
