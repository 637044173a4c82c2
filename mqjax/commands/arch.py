"""`mqjax arch`: accelerator files written, checked, shown and imported."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mqjax.commands._layers import add_figure_arguments, write_figures
from mqjax.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    new = actions.add_parser(
        "new",
        help="write a commented template",
        description="Write a commented template.",
        epilog="example:\n  mqjax arch new mine.yaml",
    )
    new.add_argument("file", type=Path, help="the new accelerator file")
    check = actions.add_parser(
        "check",
        help="list all that is wrong with a file",
        description="List all that is wrong with a file; exit status 2 if anything is.",
        epilog="example:\n  mqjax arch check mine.yaml",
    )
    check.add_argument("file", type=Path, help="accelerator file")
    show = actions.add_parser(
        "show",
        help="print and draw an accelerator",
        description="Print and draw an accelerator.",
        epilog="example:\n  mqjax arch show eyeriss --svg eyeriss.svg",
    )
    show.add_argument("arch", help="shipped accelerator or YAML file")
    add_figure_arguments(show)
    load = actions.add_parser(
        "import",
        help="make a file of a Timeloop accelerator",
        description="Make a file of a Timeloop accelerator, v0.3 or v0.4; what has no counterpart is listed on standard error.",
        epilog="example:\n  mqjax arch import timeloop/simba --out simba_own.yaml",
    )
    load.add_argument("folder", metavar="DIR", type=Path, help="folder with arch.yaml, ERT.yaml and ART.yaml")
    load.add_argument(
        "--constraints-dir",
        type=Path,
        metavar="DIR",
        help="where arch_constraints.yaml and map_constraints.yaml are (default: DIR; v0.4 needs none)",
    )
    load.add_argument("--name", help="name of the accelerator (default: that of the folder)")
    load.add_argument("--out", type=Path, required=True, help="the new accelerator file")


def run(args: argparse.Namespace) -> int:
    return {"new": _new, "check": _check_file, "show": _show, "import": _import}[args.action](args)


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise InputError(f"{path} exists already; choose another file")


def _new(args: argparse.Namespace) -> int:
    from mqjax.hw import FOLDER
    from mqjax.io.files import write_atomically

    _refuse_existing(args.file)
    write_atomically(args.file, (FOLDER / "template.yaml.txt").read_text())
    print(f"template: {args.file}; edit it, then check it with mqjax arch check {args.file}", file=sys.stderr)
    return 0


def _check_file(args: argparse.Namespace) -> int:
    from mqjax.hw import load_arch
    from mqjax.io.accelerator import findings

    found = findings(args.file)
    for error in found:
        print(f"mqjax arch: {error}", file=sys.stderr)
    if not found:
        arch = load_arch(args.file)
        print(f"{args.file}: {arch.name}, {len(arch.levels)} levels, {arch.mac.instances:,} MACs; nothing is wrong")
    return 2 if found else 0


def _show(args: argparse.Namespace) -> int:
    from mqjax.hw import load_arch
    from mqjax.show.draw import ARCH_HEADINGS, arch_rows, constraint_lines, draw_arch
    from mqjax.show.progress import print_table

    arch = load_arch(args.arch)
    print_table(f"{arch.name}: {arch.mac.instances:,} MACs, {arch.area_um2:.6g} um^2", ARCH_HEADINGS, arch_rows(arch))
    for line in constraint_lines(arch):
        print(line)
    write_figures(args, lambda form: draw_arch(arch, form))
    return 0


def _import(args: argparse.Namespace) -> int:
    import yaml

    from mqjax.io.files import write_atomically
    from mqjax.io.timeloop_arch import import_accelerator

    _refuse_existing(args.out)
    name = args.name or args.folder.resolve().name
    imported = import_accelerator(name, args.folder, args.constraints_dir or args.folder)
    for note in imported.without_counterpart:
        print(f"no counterpart: {note}", file=sys.stderr)
    write_atomically(args.out, yaml.safe_dump(imported.document, sort_keys=False, default_flow_style=None, width=110))
    print(f"accelerator: {args.out}; {len(imported.without_counterpart)} settings without counterpart", file=sys.stderr)
    return 0
