"""The `mqjax` command. Each sub-command lives in `mqjax.commands` and is imported only when it is asked for.

Exit status: 0 done, 1 failure, 2 bad usage or bad input. What nobody foresaw is told in a sentence, too;
where MQJAX_TRACEBACK is set in the environment, as Python's traceback.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from mqjax.errors import InputError, meant

# One example each for `--help`; a test parses them.
EXAMPLES = {
    "search": "mqjax search --arch eyeriss --network mobilenetv1 \\\n    --objectives error,energy --out runs/mine",
    "map": 'mqjax map --arch eyeriss --layer "C=64,M=128,P=56,Q=56" \\\n    --bits 8/4/8 --metric edp',
    "explain": 'mqjax explain --arch eyeriss --layer "C=64,M=128,P=56,Q=56" \\\n    --bits 8/4/8 --svg nest.svg',
    "evaluate": 'mqjax evaluate --arch eyeriss --mapping map.yaml \\\n    --layer "C=64,M=128,P=56,Q=56" --bits 8/4/8',
    "table": "mqjax table --arch simba --network mobilenetv2 --out table.json.gz",
    "mapspace": 'mqjax mapspace --arch eyeriss --layer "C=64,M=128,P=56,Q=56" \\\n    --out space.png',
    "constraints": "mqjax constraints --arch simba --network mobilenetv1 --bits 8/8/8 \\\n    --figure constraints.png",
    "network": "mqjax network show model.onnx",
    "arch": "mqjax arch check mine.yaml",
    "data": "mqjax data prepare photos --name photos --data-dir prepared",
    "train": "mqjax train --network mobilenetv1 --dataset fashion_mnist \\\n    --epochs 40 --out runs/trained",
    "report": "mqjax report runs/mine",
    "export": "mqjax export runs/mine --member 3 --format qonnx --out mine.onnx",
    "bench": "mqjax bench --parts pricing,nsga2 --out bench.json",
}

COMMANDS = {
    "evaluate": "evaluate given mappings of an accelerator",
    "map": "find the proven-optimal mapping of each layer",
    "explain": "draw a mapping, and say what its energy and its cycles come from",
    "table": "tabulate the optima of every layer for all bit-widths",
    "mapspace": "show sizes, valid counts and cost distribution of mapspaces",
    "constraints": "say what each of an accelerator's own constraints costs",
    "search": "search per-layer bit-widths: accuracy against hardware cost",
    "network": "show a network as the mapper sees it, and what of its file was skipped",
    "arch": "write, check, show and import accelerator files",
    "data": "prepare folders of images",
    "train": "train a network, in float or quantization-aware",
    "report": "make tables, figures and an HTML page of a search run",
    "export": "write a member of a front for the next tool: widths, QONNX, settings",
    "bench": "measure throughput on this machine",
}


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the lines of examples, and tells defaults where there are any."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filler = super() if "\n" in text else argparse.HelpFormatter(self._prog)
        return filler._fill_text(text, width, indent)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """A parser that says which command, option or choice was probably meant; `options` are known besides its own."""

    options: Sequence[str] = ()

    def __init__(self, *args: Any, formatter_class: Any = HelpFormatter, **kwargs: Any) -> None:
        super().__init__(*args, formatter_class=formatter_class, **kwargs)

    def error(self, message: str) -> NoReturn:
        if found := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            message += meant(found[1], re.findall(r"[\w./-]+", found[2]))
        elif message.startswith("unrecognized arguments: "):
            word = message.split()[2].split("=")[0]
            message += meant(word, self.options) if word.startswith("--") else ""
        super().error(message)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return its exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = Parser(
        prog="mqjax",
        description="Exact mapping and mixed-precision quantization search for CNN accelerators.",
        epilog="`mqjax COMMAND --help` explains the options of a command.\n\n"
        'example:\n  mqjax map --arch eyeriss --layer "C=64,M=128,P=56,Q=56" --bits 8/4/8',
    )
    parser.add_argument("--version", action="version", version=f"mqjax {importlib.metadata.version('mqjax')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    asked = next((word for word in argv if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example:\n  {EXAMPLES[name]}",
        )
        if name == asked:
            module = importlib.import_module(f"mqjax.commands.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
            parser.options = [*parser.options, *re.findall(r"--[\w-]+", command.format_usage())]
    args = parser.parse_args(argv)
    _keep_compiled_programs()
    logging.getLogger("absl").setLevel(logging.ERROR)  # tensorflow-datasets' advice on faster image decoders
    try:
        status = args.run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Whoever reads the output (`| head`) has enough of it; what is still to be flushed goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except InputError as error:
        print(f"mqjax {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"mqjax {args.command}: interrupted", file=sys.stderr)
        return 1
    except (FileExistsError, NotADirectoryError) as error:
        print(f"mqjax {args.command}: {error.filename}: there is a file where a folder is needed", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"mqjax {args.command}: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        if os.environ.get("MQJAX_TRACEBACK"):
            raise
        told = " ".join(f"{type(error).__name__}: {error}".split())
        print(
            f"mqjax {args.command}: an error that should not happen; unless it is of code of your own, please report it with what "
            f"the command prints where MQJAX_TRACEBACK=1 is set: {told}",
            file=sys.stderr,
        )
        return 1


def _keep_compiled_programs() -> None:
    """Let JAX keep compiled programs beside the cached tables, unless the user has chosen a place for them."""
    from mqjax.io.files import cache_folder

    # JAX reads these when it is imported.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder() / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


if __name__ == "__main__":
    sys.exit(main())
