"""Lets all attacks by files loose: weights, features, permutations, galleries, recipes, runs, exports, reports."""

from __future__ import annotations

import argparse

from attacks.confined import MOST_MIB, MOST_SECONDS, outcomes
from test_attack_files import MODULES, wrong


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m python_tests.soak files", description=__doc__)
    parser.add_argument("modules", nargs="*", default=MODULES)
    options = parser.parse_args(arguments)
    gave_way = 0
    for module in options.modules:
        found = outcomes([module])[module]
        failed = wrong(module, found)
        gave_way += len(failed)
        seconds, mib = (max(getattr(outcome, name) for _, outcome in found) for name in ("seconds", "mib"))
        print(f"{module}: {len(found)} attacks, {len(failed)} gave way; at most {seconds:.1f} s and {mib:.0f} MiB")
        for attack, outcome in failed:
            print(f"  {attack.name}: {attack.tries}\n    {outcome}")
    print(f"allowed are {MOST_SECONDS:.0f} s and {MOST_MIB} MiB")
    return 1 if gave_way else 0
