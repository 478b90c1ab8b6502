"""The verb ``dashboard``: what W&B would be sent, without W&B; and what stands in its way, told."""

from __future__ import annotations

import json
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from moe_bench import cli
from moe_bench.config import load, to_dict
from moe_bench.errors import ConfigError
from moe_bench.report import dashboard

ROOT = Path(__file__).parents[2]
CLOSED = "http://127.0.0.1:9"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    add(tmp_path / "runs" / "one", entity="birds")
    return tmp_path / "runs"


def add(folder: Path, entity: str) -> None:
    folder.mkdir(parents=True)
    config = to_dict(load(["router=soft", f"logger.entity={entity}"]))
    (folder / "run.json").write_text(json.dumps({"config": config}))
    summary = {"run_id": folder.name, "val/prec1": 0.5, "probe/finches/10shot": 0.4, "probe/finches/5shot": 0.3}
    (folder / "summary.json").write_text(json.dumps(summary))


def written(runs: Path, *words: str) -> dict[str, Any]:
    file = runs.parent / "made" / "dashboard.json"
    assert cli.dispatch(["dashboard", str(runs), "--spec", str(file), *words]) == 0
    return dict(json.loads(file.read_text()))


def panels(made: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Section → the settings of its panels, of the workspace."""
    found = made["workspace"]["spec"]["section"]["panelBankConfig"]["sections"]
    return {one["name"]: [panel["config"] for panel in one["panels"]] for one in found}


def test_both_figures_set_accuracy_against_device_days(runs: Path) -> None:
    shown = panels(written(runs))
    scatters = {name: [(one["xAxis"], one["yAxis"]) for one in shown[name]] for name in shown if "Figure" in name}
    price = "summary:cost/device_days"
    assert scatters == {
        "Figure 1: upstream accuracy against cost": [(price, "summary:val/prec1")],
        "Figure 2: few-shot accuracy against cost": [
            (price, "summary:probe/finches/5shot"),
            (price, "summary:probe/finches/10shot"),
        ],
    }


def test_curves_are_over_pictures_seen_and_bars_by_router_and_capacity(runs: Path) -> None:
    shown = panels(written(runs))
    curves = [*shown["Training"], *shown["Routing health"]]
    assert {one["xAxis"] for one in curves} == {"samples_seen"}
    assert ["routing/load/cv"] in [one["metrics"] for one in curves]
    bars = shown["Routers and capacities"]
    assert {one["groupBy"].split(".")[0] for one in bars} == {"cell", "router"}
    assert {one["groupAgg"] for one in bars} == {"mean"}


def test_the_report_has_every_panel_of_the_workspace_two_beside_each_other(runs: Path) -> None:
    made = written(runs, "--project", "beaks")
    assert (made["report"]["project"]["name"], made["workspace"]["project"]) == ("beaks", "beaks")
    grids = [block["metadata"] for block in made["report"]["spec"]["blocks"] if block["type"] == "panel-grid"]
    drawn = [grid["panelBankSectionConfig"]["panels"] for grid in grids]
    assert [[panel["config"] for panel in grid] for grid in drawn] == list(panels(made).values())
    places = [[(panel["layout"]["x"], panel["layout"]["y"]) for panel in grid] for grid in drawn]
    assert all(len(set(grid)) == len(grid) for grid in places)
    assert places[1] == [(0, 0), (12, 0)]


def test_figures_are_those_that_runs_have_at_wandb() -> None:
    """Names of health figures are telemetry's, and grouping keys are among the settings that W&B gets."""
    from moe_bench.report.panels import BY, HEALTH

    page = (ROOT / "docs" / "telemetry.md").read_text(encoding="utf-8")
    assert [name for name in HEALTH if f"| `{name}` |" not in page] == []
    assert {key.split(".")[0] for key in BY} <= {*to_dict(load([])), "cell"}


def test_runs_of_two_accounts_must_be_told_apart(runs: Path) -> None:
    add(runs / "two", entity="fish")
    with pytest.raises(ConfigError, match=r"birds \(1 runs\), fish \(1 runs\).*--entity"):
        written(runs)
    assert written(runs, "--entity", "fish")["workspace"]["entity"] == "fish"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "no key for api.wandb.ai"),
        ({"WANDB_MODE": "offline"}, "WANDB_MODE=offline"),
        ({"WANDB_API_KEY": "x" * 40, "WANDB_BASE_URL": CLOSED}, "127.0.0.1 does not answer"),
    ],
)
def test_what_stands_in_the_way_is_told_with_the_way_without_it(
    runs: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{said}.*--spec"):
        cli.dispatch(["dashboard", str(runs)])


@pytest.mark.slow
def test_a_server_that_refuses_is_told_in_its_own_words(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuses(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(401)
            self.end_headers()
            self.wfile.write(b'{"errors":[{"message":"a stranger"}]}')

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(ConfigError, match=r"W&B refused: .*a stranger\. Check your key"):
            cli.dispatch(["dashboard", str(runs)])
        server.shutdown()


def test_the_missing_package_is_named_with_the_command_that_installs_it(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install wandb-workspaces"):
        cli.dispatch(["dashboard", str(runs), "--spec", "x.json"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["optional-dependencies"]["dashboard"][0].startswith("wandb-workspaces")


def test_a_folder_without_runs_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        cli.dispatch(["dashboard", str(tmp_path / "none")])
    with pytest.raises(ConfigError, match="holds no runs yet"):
        cli.dispatch(["dashboard", str(tmp_path)])


def test_help_needs_neither_the_package_nor_wandb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.dispatch(["dashboard", "--help"])
    assert "--spec FILE" in capsys.readouterr().out
    assert "moe_bench.report.panels" not in sys.modules or "wandb_workspaces" in sys.modules
