"""Options that several commands share: the accelerator, its constraints, and the layers to look at."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mqjax.errors import InputError, unknown
from mqjax.io.documents import shown
from mqjax.types import (
    DEPTHWISE,
    LAYER_KEYS,
    METRICS,
    SECONDS,
    SHAPES,
    UNPACKED,
    BitWidths,
    Layer,
    check_effort,
    depthwise_view,
    layer_keys,
)

if TYPE_CHECKING:
    from mqjax.arch import Arch

CONSTRAINTS = "paper: the paper's mapspace; arch: only what the hardware demands; none: anything goes"
"""What the option --constraints means."""


def _depthwise(text: str) -> str:
    try:
        return depthwise_view(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


DEPTHWISE_OPTION: dict[str, Any] = {"type": _depthwise, "metavar": f"{{{','.join(DEPTHWISE)}}}"}
"""What the option --depthwise takes."""


def add_arch_arguments(parser: argparse.ArgumentParser) -> None:
    """--arch, --dialect."""
    parser.add_argument("--arch", required=True, help="shipped accelerator (such as eyeriss or simba) or YAML file")
    parser.add_argument(
        "--dialect", choices=("2024", "2023"), default="2024", help="2023: the first fill of partial sums is charged"
    )


def sizes_of(network: str) -> tuple[tuple[str, type, str], ...]:
    """Options of a network's sizes: name, type and help, where `network` is what the help calls it."""
    return (
        ("width_multiplier", float, f"of {network}"),
        ("resolution", int, f"height and width of {network}'s images"),
        ("classes", int, f"outputs of {network}"),
        ("channels", int, f"channels of {network}'s images"),
    )


def add_sizes(parser: argparse.ArgumentParser, network: str) -> None:
    """--width-multiplier, --resolution, --classes, --channels of what the help calls `network`; the library's defaults."""
    from mqjax.models.files import SIZES

    for name, kind, means in sizes_of(network):
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=SIZES[name], help=means)


def add_layer_arguments(
    parser: argparse.ArgumentParser, *, layer: bool = True, required: bool = True, constraints: bool = True
) -> None:
    """--network with its sizes or, if `layer`, --layer; --depthwise; if `constraints`, --constraints."""
    group = parser.add_mutually_exclusive_group(required=required)
    group.add_argument(
        "--network",
        help="a network, such as mobilenetv1 or resnet18; a file: ONNX, or layers as YAML or CSV; or a Flax module, "
        "MODULE:OBJECT@HxWxC",
    )
    if layer:
        keys = f"keys {' '.join(LAYER_KEYS)}, for grouped also G, for matmul B M K N; absent ones are 1"
        group.add_argument("--layer", help=f"bounds as KEY=VALUE,...; {keys}")
        parser.add_argument(
            "--shape",
            choices=SHAPES,
            default="cnn",
            help="shape of --layer; grouped: G groups of C input and M output channels each; matmul: B products of M x K by K x N",
        )
    add_sizes(parser, "--network")
    parser.add_argument(
        "--depthwise",
        default=DEPTHWISE[0],
        help="depthwise layers of --network as they are, or as dense convolutions, as in the paper's configuration",
        **DEPTHWISE_OPTION,
    )
    if constraints:
        parser.add_argument("--constraints", choices=("paper", "arch", "none"), default="paper", help=CONSTRAINTS)


def add_bits_argument(parser: argparse.ArgumentParser, *, also: str = "", **options: Any) -> None:
    """--bits; `also` says what else it takes."""
    means = f"widths I/W/O of Inputs, Weights and Outputs, {also}or '{UNPACKED}': one operand in each word"
    parser.add_argument("--bits", **{"default": UNPACKED, "help": means, **options})


def add_metric_argument(parser: argparse.ArgumentParser) -> None:
    """--metric."""
    parser.add_argument("--metric", choices=METRICS, default=METRICS[0], help="what the best mapping minimises")


def add_space_arguments(parser: argparse.ArgumentParser) -> None:
    """--pad, --no-pad, --seconds."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--pad",
        type=int,
        default=0,
        metavar="K",
        help="also try up to K larger bounds of every dimension, and keep the best (default: %(default)s: only dimensions "
        "that the fixed factors do not divide are padded, to the next bound that they do)",
    )
    group.add_argument("--no-pad", action="store_true", help="refuse layers that would have to be padded")
    parser.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        help="time for one layer; a space that takes longer is searched that long, and the best that was found is called "
        "not proven (default: %(default)g)",
    )


def padding(args: argparse.Namespace) -> int | None:
    """`pad` of `mqjax.mapper.best.solve_layer` as the options say. Raises `InputError` for impossible ones."""
    pad = None if args.no_pad else args.pad
    check_effort(pad, args.seconds)
    return pad


def chosen_layers(args: argparse.Namespace) -> list[Layer]:
    """The layers that the options name, in network order."""
    if getattr(args, "layer", None) is not None:
        return [parse_layer(args.layer, args.shape)]
    from mqjax.models import network_layers

    return network_layers(
        args.network,
        width_multiplier=args.width_multiplier,
        resolution=args.resolution,
        classes=args.classes,
        channels=args.channels,
        depthwise=args.depthwise,
    )


def add_figure_arguments(parser: argparse.ArgumentParser) -> None:
    """--svg, --png."""
    parser.add_argument("--svg", type=figure_file("svg"), help="write the figure as SVG")
    parser.add_argument("--png", type=figure_file("png"), help="write the figure as PNG")


def figure_file(form: str) -> Callable[[str], Path]:
    """A parser of names of figures in this form: other endings than its own are refused."""

    def file(text: str) -> Path:
        path = Path(text)
        if path.suffix.lower() not in ("", f".{form}"):
            raise argparse.ArgumentTypeError(
                f"{text}: what is written is {form.upper()}, so its name must end in .{form}"
            )
        return path

    return file


def write_figures(args: argparse.Namespace, draw: Callable[[str], bytes]) -> None:
    """The figures that the options ask for; `draw` makes one in the form "svg" or "png"."""
    from mqjax.io.files import write_atomically

    for path, form in ((args.svg, "svg"), (args.png, "png")):
        if path is not None:
            write_atomically(path, draw(form))
            print(f"figure: {path}", file=sys.stderr)


def add_number_argument(parser: argparse.ArgumentParser) -> None:
    """--number."""
    parser.add_argument("--number", type=int, default=1, metavar="K", help="which layer of --network, counted from 1")


def chosen_layer(args: argparse.Namespace) -> Layer:
    """The one layer that the options name."""
    layers = chosen_layers(args)
    if not 1 <= args.number <= len(layers):
        of = "--layer is a single one" if args.layer is not None else f"{args.network} has {len(layers)} layers"
        raise InputError(f"--number must be from 1 to {len(layers)}, not {args.number}: {of}")
    return layers[args.number - 1]


def single_widths(text: str) -> BitWidths:
    """The one width triple of --bits."""
    if text == "all":
        raise InputError(f"--bits must be one width triple here, such as 8/4/8, or '{UNPACKED}', not 'all'")
    return BitWidths.parse(text)


def read_mapping_of(arch: Arch, layer: Layer, path: Path) -> tuple[Layer, list[dict[str, Any]]]:
    """The mapping in a Timeloop map YAML file, and the layer as it pads it. Raises `InputError` that names the file."""
    from mqjax.io.timeloop import read_mapping
    from mqjax.mapspace.mapping import encode
    from mqjax.mapspace.padding import with_bounds_of

    mapping = read_mapping(path, arch.level_names, list(layer.projection.named))
    try:
        mapped = with_bounds_of(layer, mapping)
        encode(arch, [mapped], [mapping])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return mapped, mapping


def parse_layer(text: str, shape: str) -> Layer:
    """A layer from "C=3,M=8,..."; keys in any case. Raises `InputError` naming the part that is wrong."""
    known = layer_keys(shape)
    keys = {key.lower(): key for key in known}
    dims: dict[str, int] = {}
    for part in text.split(","):
        pair = re.fullmatch(r"\s*(\w+)\s*=\s*0*([1-9][0-9]{0,17})\s*", part, re.ASCII)
        if not pair:
            raise InputError(
                f"--layer: {shown(part.strip())} must be KEY=VALUE with a whole number from 1 to 10^18, such as C=64"
            )
        key = keys.get(pair[1].lower())
        if key is None:
            raise InputError(f"--layer: {unknown('key', pair[1], known)}")
        if key in dims:
            raise InputError(f"--layer: {key} is given twice; give each key once")
        dims[key] = int(pair[2])
    return Layer.from_dims(dims, shape=shape, name="layer")
