"""``dragwidget store list|verify|clear|path``: manage the disk cache of sessions."""

from __future__ import annotations

import argparse
import time
from typing import Any

from dragwidget.data.bad_input import user_file
from dragwidget.storage.cache import VARIABLE, Entry, Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        metavar="COMMAND",
        choices=["list", "verify", "clear", "path"],
        help="list, verify, clear or path",
    )
    parser.add_argument(
        "--folder",
        type=user_file,
        help=f"folder of the store; default: {VARIABLE} or the user's cache",
    )


def run(args: argparse.Namespace) -> int:
    """List, verify or clear the store; return 1 if ``verify`` finds a damaged entry."""
    store = Store(args.folder)
    if args.what == "path":
        print(store.folder)
    elif args.what == "clear":
        print(f"{store.clear() / 2**20:.1f} MB removed from {store.folder}")
    elif args.what == "verify":
        damaged = store.verify()
        for path in damaged:
            print(f"damaged, set aside: {path.name}")
        print(f"{len(store.entries())} entries are whole, {len(damaged)} damaged")
        return int(bool(damaged))
    else:
        entries = store.entries()
        for entry in entries:
            print(_line(entry))
        total = sum(entry.size for entry in entries) / 2**20
        print(
            f"{len(entries)} entries, {total:.1f} of {store.limit / 2**20:.0f} MB, {store.folder}"
        )
    return 0


def _line(entry: Entry) -> str:
    used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
    try:
        made_by: dict[str, Any] = entry.made_by()
    except (OSError, ValueError):
        made_by = {}
    prompt = str(made_by.get("prompt", "damaged: see verify"))
    image = str(made_by.get("image", ""))[:8]
    return f"{entry.kind:10} {entry.size / 2**20:8.2f} MB  {used}  {image:8}  {prompt[:40]}"
