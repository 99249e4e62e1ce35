"""Files of strangers are refused by name: no code runs, nothing outside is touched, memory and time are bounded.

Up to two variants of each attack; `python -m python_tests.soak files` lets all of them loose.
"""

import pytest

pytest.importorskip("timm", reason="the extra train is not installed")
pytest.importorskip("nvidia.dali", reason="the extra train is not installed")
pytest.importorskip("onnx", reason="the extra export is not installed")

from attacks.confined import MOST_MIB, MOST_SECONDS, Attack, Outcome, outcomes

MODULES = ["weights", "features", "gallery", "recipes", "exports", "reports"]


@pytest.fixture(scope="module")
def found() -> dict[str, list[tuple[Attack, Outcome]]]:
    return outcomes(MODULES, "--most=2")


@pytest.mark.parametrize("module", MODULES)
def test_files_of_strangers_come_to_nothing(found, module):
    assert len(found[module]) > 6
    assert {attack.name: (attack.tries, outcome) for attack, outcome in wrong(module, found[module])} == {}


def wrong(module: str, found: list[tuple[Attack, Outcome]]) -> list[tuple[Attack, Outcome]]:
    """The attacks of a module that came to something."""
    return [
        (attack, outcome) for attack, outcome in found if not (_harmless(outcome) and _as_due(module, attack, outcome))
    ]


def _harmless(outcome: Outcome) -> bool:
    bounded = outcome.mib < MOST_MIB and outcome.seconds < MOST_SECONDS
    return bounded and not outcome.touched and outcome.crash is None and outcome.said.replace("\n", "").isprintable()


def _as_due(module: str, attack: Attack, outcome: Outcome) -> bool:
    if module == "reports":  # which show what there is to be shown
        return outcome.result == "Exit(code=0)"
    if attack.name.startswith("extreme_arrays"):  # and yet sound: may be taken
        return True
    # Where a recipe names what cannot be read, that is named rather than the recipe.
    named = outcome.named or attack.name.startswith("recipe_value")
    return outcome.refused and named and len(outcome.said) < 4000
