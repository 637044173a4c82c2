"""mqjax: exact mapping and mixed-precision quantization search for CNN accelerators."""

from mqjax.errors import InputError
from mqjax.types import BitWidths, Layer

__all__ = ["BitWidths", "InputError", "Layer"]
