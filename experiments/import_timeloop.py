"""Turn a Timeloop v0.3 accelerator (arch.yaml, ERT.yaml, ART.yaml, constraint files) into a file of hw/.

    python experiments/import_timeloop.py NAME CONFIG_DIR/16bit_int CONFIG_DIR > hw/NAME.yaml

The first folder holds arch.yaml, ERT.yaml and ART.yaml; the second arch_constraints.yaml and map_constraints.yaml.
What has no counterpart in our format is named on stderr.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from mqjax.errors import InputError
from mqjax.io.timeloop_arch import import_accelerator


def main(name: str, tables: Path, rules: Path) -> None:
    imported = import_accelerator(name, tables, rules)
    for note in imported.without_counterpart:
        print(f"import_timeloop: {note}", file=sys.stderr)
    yaml.safe_dump(imported.document, sys.stdout, sort_keys=False, default_flow_style=None, width=110)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    try:
        main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    except InputError as error:
        sys.exit(f"import_timeloop: {error}")
