"""`mqjax data`: data sets from folders of images."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    prepare = actions.add_parser(
        "prepare",
        help="make a data set of DIR/SPLIT/CLASS/*.png or *.jpg",
        description="Make a data set of DIR/SPLIT/CLASS/*.png or *.jpg; --dataset and --data-dir of the other commands "
        "then name it.",
        epilog="example:\n  mqjax data prepare photos --name photos --data-dir prepared",
    )
    prepare.add_argument(
        "source", metavar="DIR", type=Path, help="folder with train/CLASS/*.png, test/CLASS/*.png, ..."
    )
    prepare.add_argument("--name", required=True, help="name of the data set: lower-case letters, digits and _")
    prepare.add_argument("--data-dir", type=Path, default=Path("data"), help="where to put it")
    prepare.add_argument(
        "--channels", type=int, choices=(1, 3), help="1: grey, 3: colour (default: 1 where all images are grey)"
    )


def run(args: argparse.Namespace) -> int:
    from mqjax.data import load_dataset, prepare_image_folder
    from mqjax.errors import InputError

    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", args.name):
        raise InputError(f"--name must be lower-case letters, digits and _, a letter first, not {args.name!r}")
    for folder in (args.source, args.data_dir):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file, but must be a folder")
    if (args.data_dir / args.name).exists():
        raise InputError(f"{args.data_dir / args.name} exists already; choose another --name or --data-dir")
    folder = prepare_image_folder(args.source, args.name, args.data_dir, channels=args.channels)
    data = load_dataset(args.name, data_dir=args.data_dir)
    counts = ", ".join(f"{split} {data.count(split):,}" for split in data.splits)
    kind = "grey" if data.channels == 1 else "colour"
    print(f"data set: {folder}: {kind} images of {data.classes} classes: {counts}", file=sys.stderr)
    print(f"use it by --dataset {args.name} --data-dir {args.data_dir}", file=sys.stderr)
    return 0
