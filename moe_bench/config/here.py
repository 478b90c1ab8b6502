"""What a run needs and this machine lacks, as far as it can be seen at once: without torch, in less than a second."""

from __future__ import annotations

import os
from pathlib import Path

from moe_bench.config.plugins import module_is_there, own_code
from moe_bench.config.problems import did_you_mean
from moe_bench.config.schema import Config
from moe_bench.errors import ConfigError, DataError

RUNS = "runs"  # where they are unless runs_dir says otherwise
DIGITS = "digits"  # as a folder of shards: the pictures that come with moe-bench


def refuse_what_is_missing(cfg: Config) -> None:
    """
    Raises:
        ConfigError: the module of a router or an affinity of the user's own.
        DataError: a folder of shards.
    """
    own = own_code(cfg.router)
    if own is not None and not module_is_there(own):
        module = own.where.partition(":")[0]
        raise ConfigError(
            f"{own.setting}: there is no module {module!r}, neither installed nor in {os.getcwd()}. "
            "Nothing was written. Start where its file lies, or install its package"
        )
    folders = {"data.path": [cfg.data.path] if cfg.data.path else [], "probe.sets": cfg.probe.sets}
    for setting, named in folders.items():
        for folder in named:
            if folder != DIGITS and not Path(folder).expanduser().is_dir():
                raise DataError(f"{setting}: the data set folder {folder!r} does not exist{_close(folder)}")


def _close(folder: str) -> str:
    """A hint at a folder of nearly that name."""
    path = Path(folder).expanduser().absolute()
    beside = [child.name for child in path.parent.iterdir() if child.is_dir()] if path.parent.is_dir() else []
    close = did_you_mean(path.name, beside)
    return f"; did you mean {str(Path(folder).with_name(close))!r}?" if close else f". Looked for at {path}"


def meant_run(run: Path) -> str:
    """For the message that there is no folder ``run``: the run that may be meant, beside it or in runs/."""
    known: dict[str, Path] = {}
    for parent in (run.parent, Path(RUNS)):
        known |= {record.parent.name: record.parent for record in parent.glob("*/run.json")}
    begun = [name for name in known if name.startswith(run.name)]  # ids end in a hash, which nobody types
    close = begun[0] if len(begun) == 1 else did_you_mean(run.name, known)
    return f"; did you mean {known[close]}?" if close else ". `moe-bench ls` shows the runs"
