"""The verb ``shards``: look into shards, decode all that is in them, or make them from pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from moe_bench.arguments import Parser, too_little
from moe_bench.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moe_bench.data.index import ShardIndex

EXAMPLES = """\
examples:
  moe-bench shards index DIR                          all splits of a data set folder
  moe-bench shards index 'DIR/train-{000..031}.tar'   shards by pattern; also wildcards and http(s), s3, gs URLs
  moe-bench shards verify DIR                         decodes every picture; names those that are damaged
  moe-bench shards make --folder PHOTOS --val-share 0.05 --out DIR
  moe-bench shards make --torchvision CIFAR10 --root DOWNLOADED --split train --split test --out DIR
"""


def run(argv: list[str]) -> int:
    """Runs ``moe-bench shards ARGV``; returns the exit code. Raises MoeBenchError for what the user can mend."""
    if not argv:
        return too_little(_parser())
    arguments = _parser().parse_args(argv)
    code: int = arguments.run(arguments)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="moe-bench shards",
        description="Look into shards of labelled pictures, or make them.",
        epilog=EXAMPLES,
    )
    verbs = parser.add_subparsers(required=True, metavar="index|verify|make")
    index = verbs.add_parser("index", help="read, check and count shards; the result is kept for training")
    index.set_defaults(run=_index)
    verify = verbs.add_parser("verify", help="decode every picture and name those that cannot be; exit code 3 if any")
    verify.add_argument("--max-pixels", type=int, help="as data.max_pixels: a larger picture counts as damaged")
    verify.add_argument("--workers", type=int, help="processes that decode (one a core)")
    verify.set_defaults(run=_verify)
    for reader in (index, verify):
        reader.add_argument("source", nargs="+", help="a data set folder, or shards: paths, patterns, URLs")
        reader.add_argument("--labels", choices=("single", "multi"), default="single", help="as data.labels (single)")
        reader.add_argument("--label-key", default="label", help="where a .json keeps its label (label)")
        reader.add_argument("--num-classes", type=int, help="labels must be below it (from meta.json)")
        reader.add_argument("--cache-dir", help="where indexes and fetched shards are kept ($MOE_BENCH_CACHE)")
    make = verbs.add_parser("make", help="write shards and meta.json from pictures")
    source = make.add_mutually_exclusive_group(required=True)
    source.add_argument("--folder", type=Path, help="one sub-folder a class, or train/ and val/ or test/ of such")
    source.add_argument("--torchvision", metavar="NAME", help="a data set of torchvision.datasets that is on disk")
    make.add_argument("--root", type=Path, default=Path("."), help="where torchvision finds it (.)")
    make.add_argument("--split", action="append", choices=("train", "val", "test"), help="what to write (train)")
    make.add_argument("--val-share", type=float, default=0.0, help="share of each class to set apart as val (0)")
    make.add_argument("--per-shard", type=int, default=10_000, help="pictures a shard (10000)")
    make.add_argument("--name", help="of the data set, in run ids (the name of the --out folder)")
    make.add_argument("--out", type=Path, required=True, help="the data set folder to write")
    make.set_defaults(run=_make)
    return parser


def _splits(arguments: argparse.Namespace) -> Iterator[tuple[str, ShardIndex]]:
    """(split, index) for all that is named; "" is the split of shards that are named one by one."""
    from moe_bench.data.index import open_split
    from moe_bench.data.sources import split_of, splits_in

    source = arguments.source[0]
    if len(arguments.source) == 1 and Path(source).expanduser().is_dir():
        splits = {split: split_of(source, split) for split in splits_in(Path(source).expanduser())}
    else:
        splits = {"": arguments.source}
    for split, shards in splits.items():
        index = open_split(
            shards, labels=arguments.labels, label_key=arguments.label_key, cache_dir=arguments.cache_dir
        )
        if arguments.num_classes:
            index.check_labels(arguments.num_classes)
        yield split, index


def _index(arguments: argparse.Namespace) -> int:
    from moe_bench.data.summary import write_summary

    rows, places = [], []
    for split, index in _splits(arguments):
        rows.append(_row(split, index))
        places.append(write_summary(index, arguments.cache_dir))
    _print_table(["split", "shards", "pictures", "classes", "labels", "MiB", "other members"], rows)
    print(f"written to {', '.join(sorted({str(place) for place in places}))}")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from moe_bench.data.decode import MAX_PIXELS
    from moe_bench.data.progress import progress
    from moe_bench.data.verify import altered, faults

    found: list[str] = []
    pictures = 0
    for split, index in _splits(arguments):
        pictures += len(index)
        limits = {"max_pixels": arguments.max_pixels or MAX_PIXELS, "workers": arguments.workers}
        before = len(found)
        try:
            with progress(f"decoding {split}".rstrip(), len(index), "pictures") as advance:
                found.extend(faults(index, **limits, advance=advance))
        finally:  # when it is interrupted too; not before, for a bar is drawn meanwhile
            print(*found[before:], sep="\n", end="\n" * (len(found) > before))
    if found:
        raise DataError(
            f"{len(found):,} of {pictures:,} pictures are damaged; replace them and make their shards again"
        )
    folder = Path(arguments.source[0]).expanduser()
    if folder.is_dir() and (shards := list(altered(folder))):
        raise DataError("\n".join([*shards, "every picture can be decoded, but fetch or make these shards again"]))
    print(f"all {pictures:,} pictures can be decoded")
    return 0


def _row(split: str, index: ShardIndex) -> list[str]:
    import numpy as np

    seen = np.unique(index.labels)
    seen = seen[seen >= 0]
    return [
        split or "-",
        f"{len(index.counts):,}",
        f"{len(index):,}",
        f"{len(seen):,} of {index.num_classes:,}",
        f"{seen[0]}–{seen[-1]}",
        f"{index.sizes.sum(dtype=np.int64) / 2**20:,.1f}",
        f"{index.ignored:,}",
    ]


def _make(arguments: argparse.Namespace) -> int:
    from moe_bench.data.make import from_folder, from_torchvision, write_dataset

    splits = list(dict.fromkeys(arguments.split or ["train"]))
    if not 0 <= arguments.val_share < 1 or arguments.per_shard < 1:
        raise ConfigError("--val-share must be in [0, 1) and --per-shard at least 1")
    if arguments.torchvision:
        origin = from_torchvision(arguments.torchvision, arguments.root, splits)
    elif len(splits) > 1:
        raise ConfigError("--folder takes one --split; a folder with train/ and val/ inside gives both by itself")
    else:
        origin = from_folder(arguments.folder, splits[0], arguments.val_share)
    meta = write_dataset(arguments.out, arguments.name or arguments.out.resolve().name, origin, arguments.per_shard)
    rows = [[name, str(len(part["shards"])), f"{part['samples']:,}"] for name, part in meta["splits"].items()]
    _print_table(["split", "shards", "pictures"], rows)
    print(f"{meta['num_classes']} classes, written to {arguments.out}")
    print(f"train on it: moe-bench data=shards data.path={arguments.out}")
    return 0


def _print_table(head: list[str], rows: list[list[str]]) -> None:
    """Words to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    for first, *rest in [head, *rows]:
        print(first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:])), sep="  ")
