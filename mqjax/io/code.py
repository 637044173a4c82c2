"""Python objects that a user names as "module:object"."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from mqjax.errors import InputError, meant


def reason(error: Exception) -> str:
    """What an error of the user's code says, on one line."""
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, ImportError) else f"{type(error).__name__}: {text}".removesuffix(": ")


def load_object(name: str, option: str) -> Any:
    """The object called "package.module:object"; modules are also looked for in the current directory.

    option: what the name was given as, for messages. Raises `InputError` where it is not found.
    """
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise InputError(f"{option} must be module:object, such as my_module:make, not {name!r}")
    sys.path.insert(0, "")
    try:
        found = importlib.import_module(module)
    except Exception as error:  # the user's code may raise anything
        raise InputError(f"{option} {name}: the module {module!r} cannot be imported: {reason(error)}") from error
    finally:
        sys.path.remove("")
    if not hasattr(found, attribute):
        raise InputError(f"{option} {name}: {module!r} has no {attribute!r}{meant(attribute, vars(found))}")
    return getattr(found, attribute)
