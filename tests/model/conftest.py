"""Every router in turn."""

from __future__ import annotations

import pytest
from example_models import ROUTERS

from moe_bench.config.schema import DenseRouterConfig, RouterConfig


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
    """The settings of the six routers and the dense baseline."""
    return DenseRouterConfig() if request.param == "dense" else ROUTERS[request.param]
