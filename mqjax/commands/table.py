"""`mqjax table`: optima of every unique layer of a network at all width triples, kept on disk."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from mqjax.commands._layers import add_arch_arguments, add_layer_arguments, add_space_arguments, chosen_layers, padding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_arch_arguments(parser)
    add_layer_arguments(parser, layer=False)
    add_space_arguments(parser)
    parser.add_argument("--out", type=Path, help="write the whole table as JSON (.json or .json.gz)")
    parser.add_argument(
        "--csv",
        type=Path,
        help="write one row per layer, metric and width triple as CSV; bits 0 are unpacked operands, and times says how often the network has the layer",
    )
    parser.add_argument("--parquet", type=Path, help="the same as Parquet (needs the extra mqjax[parquet])")
    hosts = parser.add_argument_group(
        "several hosts", "start the same command on every host, with its own --process-id"
    )
    hosts.add_argument("--coordinator-address", metavar="HOST:PORT", help="where process 0 listens")
    hosts.add_argument("--num-processes", type=int, help="how many processes share the work")
    hosts.add_argument(
        "--process-id", type=int, help="this one's number, from 0; process 0 prints and writes the table"
    )
    parser.add_argument("--no-cache", action="store_true", help="compute afresh; neither read nor write cached tables")


def run(args: argparse.Namespace) -> int:
    import jax

    from mqjax.errors import InputError
    from mqjax.hw import load_arch
    from mqjax.io.files import cache_folder
    from mqjax.mapper.columns import check_parquet, write_csv, write_parquet
    from mqjax.mapper.hosts import join_hosts
    from mqjax.mapper.optima import nothing_fits
    from mqjax.mapper.table import cost_table, entry_of, write_table
    from mqjax.mapspace.padding import padded_or_itself, padding_of
    from mqjax.mapspace.space import Mapspace
    from mqjax.show.progress import bar, print_table
    from mqjax.types import BitWidths

    if args.parquet is not None:
        check_parquet()
    pad = padding(args)
    options = (args.coordinator_address, args.num_processes, args.process_id)
    if any(option is not None for option in options):
        if None in options:
            raise InputError("several hosts need --coordinator-address, --num-processes and --process-id together")
        join_hosts(*options)
    arch = load_arch(args.arch, dialect=args.dialect)
    layers = chosen_layers(args)
    started = time.perf_counter()
    cache = None if args.no_cache else cache_folder()
    with bar("tabulating", len(set(layers)), "layers") as progress:
        table = cost_table(
            arch,
            layers,
            constraints=args.constraints,
            pad=pad,
            seconds=args.seconds,
            cache=cache,
            progress=progress,
        )
    seconds = time.perf_counter() - started
    if jax.process_index() > 0:
        return 0
    if args.out is not None:
        write_table(args.out, table)
    if args.csv is not None:
        write_csv(args.csv, table)
    if args.parquet is not None:
        write_parquet(args.parquet, table)
    columns = [BitWidths(), *(BitWidths(w, w, w) for w in (8, 4, 2))]
    lines = []
    reasons: list[str] = []
    for u, (layer, entries) in enumerate(zip(table.unique, table.tables, strict=True)):
        energies = []
        for bits in columns:
            fits = entries.index[0, entry_of(bits)] >= 0
            energies.append(f"{entries.value('energy')[entry_of(bits)]:.5g}" if fits else "none fits")
            if not fits:
                mapped = padded_or_itself(arch, layer, constraints=args.constraints, pad=pad)
                space = Mapspace(arch, mapped, constraints=args.constraints)
                reasons.append(str(nothing_fits(layer, space, bits, covered=entries.covered)))
        valid = "not counted" if entries.valid is None else f"{entries.valid[entry_of(columns[1])]:,}"
        times = str((table.index == u).sum())
        larger = padding_of(layer, entries.mappings)
        name = f"{layer.name} ({larger})" if larger else layer.name
        lines.append((name, times, *energies, f"{entries.sizes['nominal']:.2e}", valid))
    headings = ("layer", "times", *map(str, columns), "nominal", f"valid at {columns[1]}")
    print_table(f"least energy in pJ on {arch.name}", headings, lines)
    searched = sum(not entries.covered for entries in table.tables)
    proven = f"{searched} layers only searched, NOT proven" if searched else "whole spaces covered, optima proven"
    for reason in reasons:
        print(f"mqjax table: {reason}", file=sys.stderr)
    print(
        f"{len(table.unique)} different layers of {len(layers)}, 344 width triples, 3 metrics; {proven}; {seconds:.1f} s",
        file=sys.stderr,
    )
    return 2 if any((entries.index[0] < 0).all() for entries in table.tables) else 0
