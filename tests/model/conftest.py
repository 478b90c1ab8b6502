"""The settings of the six routers, as the presets of ``conf/router`` have them."""

from __future__ import annotations

import pytest

from moe_bench.config.schema import DenseRouterConfig, RouterConfig, SoftRouterConfig, SparseRouterConfig

ROUTERS: dict[str, RouterConfig] = {
    "softmax_tc": SparseRouterConfig("softmax_tc", choice="token", importance=0.005, load=0.005),
    "sinkhorn_tc": SparseRouterConfig("sinkhorn_tc", affinity="sinkhorn", choice="token"),
    "softmax_ec": SparseRouterConfig("softmax_ec"),
    "sinkhorn_ec": SparseRouterConfig("sinkhorn_ec", affinity="sinkhorn"),
    "sparse_ec": SparseRouterConfig("sparse_ec", affinity="sparse", noise=0.0),
    "soft": SoftRouterConfig("soft"),
}


@pytest.fixture(params=list(ROUTERS))
def router_name(request: pytest.FixtureRequest) -> str:
    """Each of the six routers in turn."""
    return str(request.param)


@pytest.fixture
def router_config(router_name: str) -> RouterConfig:
    """The settings of ``router_name``."""
    return ROUTERS[router_name]


@pytest.fixture(params=["dense", *ROUTERS])
def any_router_config(request: pytest.FixtureRequest) -> RouterConfig:
    """The six routers and the dense baseline."""
    return DenseRouterConfig() if request.param == "dense" else ROUTERS[request.param]
