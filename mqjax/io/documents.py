"""YAML documents as accelerator files and Timeloop's inputs use them: read strictly, with the line of every value.

Numbers, booleans and nulls are those of YAML 1.2: `1e-3` is a number, `on`, `Y` and `12:30` are text, `010` is ten. A key
given twice is refused, where YAML itself would keep the last.
"""

from __future__ import annotations

import codecs
import dataclasses
import re
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import ConstructorError, SafeConstructor
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from mqjax.errors import InputError

DIGITS_MOST = 400
"""Digits of an integer at most: more are beyond float64 anyway, and Python reads them in quadratic time."""

# UTF-32 comes first: its mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)


TAG = "!"
"""The key under which a mapping keeps its tag, where tags are read."""


class _Resolver(BaseResolver):
    """The scalars of YAML 1.2's core schema, and merge keys."""


class _Constructor(SafeConstructor):
    """Plain values only. No tag but those of the core schema is known."""


class _Loader(Reader, Scanner, Parser, Composer, _Constructor, _Resolver):  # type: ignore[misc]
    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        _Constructor.__init__(self)
        _Resolver.__init__(self)


_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
# The first pattern that matches names the scalar, so integers come before the floats that also match them.
for _tag, _pattern, _first in (
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), "tTfF"),
    ("int", _INT, "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("null", re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    ("merge", re.compile("<<"), "<"),
):
    _Resolver.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern.pattern})\Z"), list(_first))


def _refuse(node: yaml.Node, problem: str) -> ConstructorError:
    return ConstructorError(None, None, problem, node.start_mark)


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    if not _INT.fullmatch(text):
        raise _refuse(node, f"{shown(text)} is no integer")
    if len(text) > DIGITS_MOST:
        raise _refuse(node, f"an integer of {len(text)} digits is too large")
    return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = loader.construct_scalar(node)
    if not (_FLOAT.fullmatch(text) or _INT.fullmatch(text)):
        raise _refuse(node, f"{shown(text)} is no number")
    # Python spells the special values without the dot.
    return float(text.replace(".", "") if text[-1:].isalpha() else text)


def _construct_bool(loader: _Loader, node: yaml.ScalarNode) -> bool:
    text = loader.construct_scalar(node).lower()
    if text not in ("true", "false"):
        raise _refuse(node, f"{shown(text)} is neither true nor false")
    return text == "true"


def _construct_text(loader: _Loader, node: yaml.ScalarNode) -> str:
    text = loader.construct_scalar(node)
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise _refuse(node, "half of a surrogate pair is no character")
    return text


_Constructor.yaml_constructors = {
    "tag:yaml.org,2002:null": SafeConstructor.construct_yaml_null,
    "tag:yaml.org,2002:bool": _construct_bool,
    "tag:yaml.org,2002:int": _construct_int,
    "tag:yaml.org,2002:float": _construct_float,
    "tag:yaml.org,2002:str": _construct_text,
    "tag:yaml.org,2002:seq": SafeConstructor.construct_yaml_seq,
    "tag:yaml.org,2002:map": SafeConstructor.construct_yaml_map,
    None: SafeConstructor.construct_undefined,
}


def shown(value: Any) -> str:
    """A value for a message: quoted like Python's, on one line, shortened where it is long."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 60
    return short.repr(value)


def key_path(parts: Sequence[str | int]) -> str:
    """A path of keys and indices as in messages: levels[0].word_bits."""
    names = [f"[{part}]" if isinstance(part, int) else part if part.isprintable() else shown(part) for part in parts]
    return ".".join(names).replace(".[", "[")


class _TaggedLoader(_Loader):
    """Reads a mapping with a tag as one with the tag's name under the key `TAG`."""


def _construct_tagged(loader: _TaggedLoader, name: str, node: yaml.Node) -> dict[Any, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise _refuse(node, f"the tag !{name} stands before what is no mapping of keys to values")
    loader.flatten_mapping(node)
    return {TAG: name, **loader.construct_mapping(node, deep=True)}


_TaggedLoader.yaml_multi_constructors = {"!": _construct_tagged}


@dataclasses.dataclass(frozen=True)
class Document:
    """What a YAML file holds: `value` in Python's terms, `root` with the lines."""

    path: Path
    value: Any
    root: yaml.Node | None

    def error(self, loc: Sequence[str | int], problem: str) -> InputError:
        """An error that names file, line and key; `loc` is the path of keys and indices to the value.

        Where the path leads nowhere (a missing key), the line is that of what should hold it.
        """
        node, line, names = self.root, 1, []
        for part in loc:
            child = None
            if isinstance(node, yaml.MappingNode):
                # Merged keys stand before the mapping's own, which prevail.
                part = str(part)
                child = next(((k, v) for k, v in reversed(node.value) if k.value == part), None)
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                child = (node.value[part], node.value[part])
            if child is None:
                # The last part of a missing key; what follows a scalar is a branch that only the validation knows.
                if isinstance(node, yaml.MappingNode) and isinstance(part, str):
                    names.append(part)
                node = None
                continue
            line, node = child[0].start_mark.line + 1, child[1]
            names.append(part)
        named = f"{key_path(names)}: " if names else ""
        return InputError(f"{self.path}, line {line}: {named}{problem}")

    def at(self, loc: Sequence[str | int], kind: type, default: Any = None) -> Any:
        """The value at `loc`, which must be of the type `kind`; `default`, if given, where its key is missing."""
        value = self.value
        for i, part in enumerate(loc):
            if isinstance(part, str) and (not isinstance(value, dict) or part not in value):
                if default is not None and isinstance(value, dict) and i == len(loc) - 1:
                    return default
                raise self.error(loc[: i + 1], "this key is missing")
            value = value[part]
        if not isinstance(value, kind):
            words = {dict: "a mapping of keys to values", list: "a list", str: "text"}
            raise self.error(loc, f"must be {words[kind]}, not {shown(value)}")
        return value


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or in the UTF that its byte-order mark names."""
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not text in {encoding.upper()}; save the file as UTF-8") from None


def read_document(path: Path, *, tagged: bool = False) -> Document:
    """The YAML document in the file `path`. Raises `InputError` naming file and line.

    tagged: mappings may have tags such as !Component, which are kept as texts under the key `TAG`; nothing is made of them.
    """
    text = read_text(path)
    try:
        loader = (_TaggedLoader if tagged else _Loader)(text)
        root = loader.get_single_node()
        if root is not None:
            _check_nodes(root)
        value = None if root is None else loader.construct_document(root)
    except ReaderError as error:
        # A reader's error has a position but no line.
        line = text.count("\n", 0, error.position) + 1
        raise InputError(f"{path}, line {line}: the character U+{error.character:04X} is not allowed in YAML") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{where}: not valid YAML: {_advice(str(error.problem))}") from None
    except RecursionError:
        raise InputError(f"{path}: lists and mappings are nested too deeply") from None
    return Document(Path(path), value, root)


def _advice(problem: str) -> str:
    if "'\\t'" in problem:
        return f"{problem}; indent with spaces, not with tabs"
    if "another document" in problem:
        return "there must be one document only, without a second '---'"
    return " ".join(problem.split())


def _check_nodes(root: yaml.Node) -> None:
    """Refuse keys given twice and a document that contains itself."""
    repeated, done = None, set()
    stack: list[tuple[yaml.Node, frozenset[int]]] = [(root, frozenset())]
    while stack:
        node, above = stack.pop()
        if id(node) in above:
            raise _refuse(node, "an alias stands inside what it refers to")
        if id(node) in done or isinstance(node, yaml.ScalarNode):
            continue
        done.add(id(node))
        children = node.value
        if isinstance(node, yaml.MappingNode):
            keys = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in keys and repeated is None:
                        repeated = _refuse(key, f"the key {shown(key.value)} is given twice")
                    keys.add(key.value)
            children = [part for pair in node.value for part in pair]
        stack += [(child, above | {id(node)}) for child in reversed(children)]
    if repeated is not None:
        raise repeated
