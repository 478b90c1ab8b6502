"""What is to be judged, as data: the question about the dense model, and the claims of the paper."""

from __future__ import annotations

from dataclasses import dataclass

PLAN = " (plan combine)"
TOKEN = ("softmax_tc", "sinkhorn_tc")
EXPERT = ("softmax_ec", "sinkhorn_ec", "sparse_ec")
ACCURACY, COST = "accuracy", "cost"


@dataclass(frozen=True)
class Claim:
    """``comparisons`` are routers, the one that is said to be higher first."""

    name: str
    sentence: str
    source: str
    comparisons: tuple[tuple[str, str], ...]
    command: str  # makes the runs, where there are none
    of: str = ACCURACY
    alike: bool = False  # the claim is that there is little difference
    dearest: bool = False  # only against the second side of the highest mean
    capacities: tuple[float, float] | None = None  # of the two sides, where these differ in it

    def is_at(self, capacity: float | None) -> bool:
        """Whether runs of this capacity are among those it is about."""
        return self.capacities is None or capacity in self.capacities


def margin(figure: str) -> float:
    """The paper's own spread between Expert Choice routers, in points: 0.62 upstream, 0.84 in 10-shot (Tables 1-8)."""
    return 0.62 if figure == "val/prec1" else 0.84


def over_dense(router: str, capacity: float) -> Claim:
    """A router at one capacity over the plain ViT, which has the same compute only at capacity 1."""
    name = f"{router} (capacity {capacity:g})"
    return Claim(
        f"dense/{router}/{capacity:g}",
        f"{name} beats the dense ViT",
        "Riquelme et al. 2021; not tested in the paper",
        ((router, "dense"),),
        f"moe-bench -m router={router},dense seed=0,1,2",
        capacities=(capacity, capacity),
    )


CLAIMS = (
    Claim(
        "expert-over-token",
        "Expert Choice beats Token Choice",
        "3.2, 3.3",
        (("softmax_ec", "softmax_tc"), ("sinkhorn_ec", "sinkhorn_tc"), ("sparse_ec", "sinkhorn_tc")),
        "moe-bench -m router=softmax_ec,softmax_tc,sinkhorn_ec,sinkhorn_tc seed=0,1,2",
    ),
    Claim(
        "sinkhorn-over-softmax",
        "Sinkhorn beats Softmax in Token Choice",
        "3.2, 3.3",
        (("sinkhorn_tc", "softmax_tc"),),
        "moe-bench -m router=sinkhorn_tc,softmax_tc seed=0,1,2",
    ),
    Claim(
        "affinity-alike",
        "The affinity matters little in Expert Choice",
        "3.2, 3.3",
        (("softmax_ec", "sinkhorn_ec"), ("softmax_ec", "sparse_ec"), ("sinkhorn_ec", "sparse_ec")),
        "moe-bench -m router=softmax_ec,sinkhorn_ec,sparse_ec seed=0,1,2",
        alike=True,
    ),
    Claim(
        "soft-over-sparse",
        "Soft MoE beats sparse routers",
        "3.2, 3.3, 5",
        tuple(("soft", other) for other in (*TOKEN, *EXPERT)),
        "moe-bench -m router=soft,softmax_tc,softmax_ec seed=0,1,2",
    ),
    Claim(
        "softmax-combine",
        "Softmax combine beats plan combine",
        "3.4, Figure 3",
        tuple((name, name + PLAN) for name in ("sinkhorn_tc", "sinkhorn_ec", "sparse_ec")),
        "moe-bench -m router=sinkhorn_tc router.combine=softmax,plan seed=0,1,2",
    ),
    Claim(
        "sparse-dearest",
        "The sparsity-constrained router costs most",
        "3.2",
        tuple(("sparse_ec", other) for other in (*TOKEN, "softmax_ec", "sinkhorn_ec", "soft")),
        "moe-bench -m router=sparse_ec,sinkhorn_ec,soft seed=0,1,2",
        of=COST,
        dearest=True,
    ),
    Claim(
        "capacity-two",
        "Capacity 2 beats capacity 1",
        "Figures 1 and 2",
        tuple((name, name) for name in (*TOKEN, *EXPERT, "soft")),
        "moe-bench -m router=softmax_tc,softmax_ec capacity=1,2 seed=0,1,2",
        capacities=(2.0, 1.0),
    ),
)
