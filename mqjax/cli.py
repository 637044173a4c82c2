"""The `mqjax` command. Each sub-command lives in `mqjax.commands` and is imported only when it is asked for.

Exit status: 0 done, 1 failure, 2 bad usage or bad input.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "evaluate": "evaluate given mappings of an accelerator",
    "map": "find the proven-optimal mapping of each layer",
    "explain": "draw a mapping, and say what its energy and its cycles come from",
    "table": "tabulate the optima of every layer for all bit-widths",
    "mapspace": "show sizes, valid counts and cost distribution of mapspaces",
    "search": "search per-layer bit-widths: accuracy against hardware cost",
    "train": "train a network, in float or quantization-aware",
    "report": "make tables, figures and an HTML page of a search run",
    "bench": "measure throughput on this machine",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return its exit status."""
    from mqjax.errors import InputError

    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(
        prog="mqjax",
        description="Exact mapping and mixed-precision quantization search for CNN accelerators.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    asked = next((word for word in argv if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        if name == asked:
            module = importlib.import_module(f"mqjax.commands.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    _keep_compiled_programs()
    logging.getLogger("absl").setLevel(logging.ERROR)  # tensorflow-datasets' advice on faster image decoders
    try:
        return args.run(args)
    except InputError as error:
        print(f"mqjax {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"mqjax {args.command}: interrupted", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"mqjax {args.command}: {error}", file=sys.stderr)
        return 1


def _keep_compiled_programs() -> None:
    """Let JAX keep compiled programs beside the cached tables, unless the user has chosen a place for them."""
    from mqjax.io.files import cache_folder

    # JAX reads these when it is imported.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder() / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


if __name__ == "__main__":
    sys.exit(main())
