"""`mqjax export`: a member of a search's front in the form that the next tool reads."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mqjax.export.member import Member


class Format(NamedTuple):
    """A format: the ending of its files, and what it is good for."""

    suffix: str
    about: str


FORMATS = {
    "json": Format(".json", "widths of every layer, by a schema of our own"),
    "qonnx": Format(".onnx", "the quantized network with Quant nodes (QONNX)"),
    "onnx": Format(".onnx", "the float network, batch norms folded in"),
    "aimet": Format(".encodings", "encodings 1.0.0 for the file of --format onnx"),
    "brevitas": Format(".json", "keyword arguments of Brevitas' layers"),
    "torchao": Format(".json", "an FqnToConfig for torchao's config_from_dict, weights alone"),
    "qkeras": Format(".json", "quantizer_config of qkeras.utils.model_quantize"),
    "nncf": Format(".json", "a configuration of NNCF 2 with manual widths"),
    "timeloop": Format("", "a folder with the mapping of every layer as Timeloop map YAML"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="RUN", type=Path, help="folder of a finished search")
    parser.add_argument("--member", type=int, required=True, metavar="K", help="number of the front's member")
    listed = "; ".join(f"{name}: {found.about}" for name, found in FORMATS.items())
    parser.add_argument("--format", choices=FORMATS, default="json", metavar="F", help=listed)
    parser.add_argument(
        "--out",
        type=Path,
        help="file (for timeloop, folder) to write; default: RUN/exports/member_K_FORMAT, with the format's ending",
    )


def run(args: argparse.Namespace) -> int:
    from mqjax.export.member import read_member
    from mqjax.io.files import write_atomically

    member = read_member(args.folder, args.member)
    found = FORMATS[args.format]
    out = args.out or args.folder / "exports" / f"member_{args.member:03d}_{args.format}{found.suffix}"
    if args.format == "timeloop":
        _mappings(member, out)
    else:
        write_atomically(out, _writer(args.format)(member))
    if "retrained_accuracy" in member.entry and args.format in ("qonnx", "onnx", "aimet"):
        print("mqjax export: weights and grids are those before the member was retrained", file=sys.stderr)
    print(f"member {args.member} as {args.format}: {out}", file=sys.stderr)
    return 0


def _writer(name: str) -> Callable[[Member], str | bytes]:
    if name in ("qonnx", "onnx", "aimet"):
        from mqjax.export import models
        from mqjax.models.onnx.file import onnx_package

        onnx_package()  # missing packages are told before the network is calibrated

        return getattr(models, name)
    from mqjax.export import settings

    make: Callable[[Member], dict[str, Any]] = getattr(settings, "neutral" if name == "json" else name)
    return lambda member: settings.as_text(make(member))


def _mappings(member: Member, folder: Path) -> None:
    from mqjax.errors import InputError
    from mqjax.io.files import write_atomically
    from mqjax.io.timeloop import mapping_text

    texts = {}
    for number, (layer, entry) in enumerate(zip(member.layers, member.entry["layers"], strict=True), start=1):
        note = ", ".join(f"{dim} mapped as {bound}" for dim, bound in entry["mapped_as"].items())
        try:
            texts[f"{number:02d}_{layer.name}.yaml"] = mapping_text(
                entry["mapping"], note=f"padded: {note}" if note else ""
            )
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise InputError(
                f"{member.run / 'front.json'}: the mapping of layer {entry['name']!r} must be a list of levels with loops"
            ) from None
    for name, text in texts.items():
        write_atomically(folder / name, text)
