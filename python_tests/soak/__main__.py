"""The long forms of the tests: `python -m python_tests.soak NAME [...]`, from the root of the checkout.

Each module beside this one is a name and has a `main` that takes the arguments, prints what it found and returns an
exit code. docs/reliability.md has the figures.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(arguments: list[str]) -> int:
    names = sorted(module.name for module in pkgutil.iter_modules([str(HERE)]) if module.name != "__main__")
    if not arguments or arguments[0] not in names:
        print(f"python -m python_tests.soak NAME [...], NAME one of {', '.join(names)}", file=sys.stderr)
        return 2
    sys.path.insert(0, str(HERE.parent))  # the modules that tests share
    return importlib.import_module(f"{__package__}.{arguments[0]}").main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
