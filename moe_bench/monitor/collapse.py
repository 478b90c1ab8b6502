"""Router collapse, one expert taking almost all tokens, is told while it happens. The run goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from moe_bench.monitor.units import percent
from moe_bench.routing.stats import Tally

WINDOW = 100  # looks between two warnings
SHARE = 0.9  # of the tokens, at one expert
EXCESS = 1.5  # times its fair share at least: with k = E every expert has all tokens, and all is well


class CollapseWatch:
    """``say`` gets a line about the worst layer, once in WINDOW looks at most."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._silent = 0  # looks that are still to pass in silence

    def look(self, layers: Mapping[str, Tally]) -> None:
        """``layers`` are a step's tallies, on the host."""
        self._silent = max(0, self._silent - 1)
        found = [(*busiest(tally), name) for name, tally in layers.items()]
        collapsed = [(share, fair, expert, name) for share, fair, expert, name in found if _is_collapse(share, fair)]
        if collapsed and not self._silent:
            self._silent = WINDOW
            worst = max(collapsed)
            self._say(warning(*worst, others=len(collapsed) - 1, soft="tokens_per_slot" in layers[worst[-1]].ratios))


def busiest(tally: Tally) -> tuple[float, float, int]:
    """The share of tokens that the busiest expert gets, the share that would be fair, and its number."""
    load, tokens = tally.counts["load"], tally.counts["tokens"].clamp_min(1)
    return float(load.max() / tokens), float(load.mean() / tokens), int(load.argmax())


def warning(share: float, fair: float, expert: int, layer: str, others: int, soft: bool) -> str:
    """One line: where, how bad, what to try."""
    more = f" (and {others} more)" if others else ""
    cure = (
        "a lower recipe.lr or router.normalize=true"
        if soft
        else "a stronger balancing loss (router.importance, router.load; softmax_tc has 0.005 of each), a lower "
        "recipe.lr, or a router that balances: router=softmax_ec"
    )
    return (
        f"routing collapsed in {layer}{more}: {percent(share)} of the tokens go to expert {expert}, "
        f"{percent(fair)} would be fair. The run goes on. Try {cure}."
    )


def _is_collapse(share: float, fair: float) -> bool:
    return share >= SHARE and share >= EXCESS * fair
