"""`mqjax report`: figures and HTML page of a finished run."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="folder that mqjax search made")
    parser.add_argument("--against", type=Path, metavar="RUN", help="another run, whose front and course are drawn too")


def run(args: argparse.Namespace) -> int:
    from mqjax.show.report import write_report

    print(f"report: {write_report(args.run_folder, args.against)}")
    return 0
