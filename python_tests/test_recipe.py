"""Recipes: strict keys and types, bases, overrides, and the way back to TOML."""

import dataclasses
import typing

import pytest

from toplight_ext.errors import InputError
from toplight_ext.evaluation import parse_protocol
from toplight_ext.training import installed_recipes, load_recipe
from toplight_ext.training.recipe import Recipe
from toplight_ext.training.recipe_files import recipe_to_toml

MINIMAL = """
name = "tiny"
[data]
name = "csv"
root = "train"
[test]
name = "csv"
root = "dev"
[vi]
epochs = 3
"""


@pytest.fixture
def recipe_file(tmp_path):
    def write(text, name="recipe.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_defaults_are_filled_in_and_toml_leads_back(recipe_file):
    recipe = load_recipe(recipe_file(MINIMAL))
    assert recipe.stages == ("vi",)
    assert recipe.vi.epochs == 3 and recipe.vi.identities == 16 and recipe.pretrain is None
    assert load_recipe(recipe_file(recipe_to_toml(recipe), "resolved.toml")) == recipe


def tables(hint):
    """The dataclasses that a type hint names, and those of their fields."""
    if dataclasses.is_dataclass(hint):
        yield hint
        hint = tuple(typing.get_type_hints(hint).values())
    for part in hint if isinstance(hint, tuple) else typing.get_args(hint):
        yield from tables(part)


def test_every_table_is_one_that_the_oldest_python_reads():
    """Python 3.10 finds no hints in a class where it meets KW_ONLY or a bare ClassVar: no recipe could be loaded."""
    found = set(tables(Recipe))
    assert {"Recipe", "Augmentation", "Erasing", "Optimiser"} <= {table.__name__ for table in found}
    hints = {
        hint for table in found for kind in table.__mro__ for hint in vars(kind).get("__annotations__", {}).values()
    }
    assert hints and not hints & {"KW_ONLY", "ClassVar"}


@pytest.mark.parametrize("name", sorted(installed_recipes()))
def test_every_installed_recipe_loads(name):
    data = [f"{table}.{key}=x" for table in ("data", "test") for key in ("name", "root")]  # which a base leaves out
    assert load_recipe(name, data).stages


@pytest.mark.parametrize("name", ["regdb", "llcm", "oulu", "buaa"])
def test_a_published_set_is_evaluated_by_its_recipe_as_by_toplight_evaluate(name):
    settings = load_recipe(name).evaluation
    own = parse_protocol(name, settings.protocol, settings.shots, None)
    assert own == parse_protocol(name, None, 1, None)


def test_a_base_is_merged_key_by_key(recipe_file):
    recipe_file(MINIMAL, "base.toml")
    recipe = load_recipe(recipe_file('base = "base.toml"\n[vi]\nmargin = 0.5\n', "change.toml"))
    assert recipe.vi.epochs == 3 and recipe.vi.margin == 0.5


def test_overrides_take_toml_values_and_bare_words(recipe_file):
    overrides = ["vi.epochs=7", "data.root=/images/a b", "size=[64, 32]", "vi.visible.colour={hue = 5}"]
    recipe = load_recipe(recipe_file(MINIMAL), overrides)
    assert recipe.vi.epochs == 7 and recipe.data.root == "/images/a b" and recipe.size == (64, 32)
    assert recipe.vi.visible.colour.hue == 5.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("vi.epochz=3", "recipe.toml with its --set: unknown key 'vi.epochz': did you mean 'epochs'"),
        ("vi.epochs=many", "'vi.epochs' should be a whole number, not 'many'"),
        ("vi.epochs=true", "'vi.epochs' should be a whole number, not True"),
        ("vi.gray=True", "'vi.gray' should be true or false, not 'True'"),
        ("size=[64]", "'size' should be a list of 2 whole numbers, not [64]"),
        ("vi.optimiser.milestones=20", "should be a list of numbers, not 20"),
        ("data.root=2024", "'data.root' should be text, not 2024; text that reads as .* needs double quotes"),
        ("data.split=1", "'data.split' should be text, not 1; .* double quotes"),
        ("model=gap", "'model' should be a table, not 'gap'"),
        ("top=true", "'top' should be a table or false, which leaves it out, not True"),
        ("vi.temperature=0", "vi.temperature = 0.0: expected"),
        ("test.cache=decoded", "test.cache has no use"),
        ("pretrain.batch_size=1", "pretrain.batch_size = 1: BatchNorm needs"),
        ("vi.optimiser.name=adam", "'vi.optimiser.name' should be one of 'adamw', 'sgd'"),
        ("vi.visible.generic.crop_scale=[2.0, 3.0]", "crop_scale"),
        ("novalue", "expected KEY=VALUE"),
        ("vi.optimiser.schedule=step", "needs milestones"),
        ("vi.optimiser.milestones=[20, 50]", "only it has them"),
        ("vi.optimiser.ema_decay=1.0", "ema_decay = 1.0"),
        ("evaluation.every_epochs=1", r"needs a table [dev]"),
        ("precision=int8", "one of 'float32', 'bfloat16', 'float16'"),
    ],
)
def test_errors_name_the_key(recipe_file, change, message):
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        load_recipe(recipe_file(MINIMAL), [change])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "not valid TOML"),
        ('name = "x"', "missing 'data', 'test'"),
        (MINIMAL + "[pretrain]\n", "pretraining_data"),
        (MINIMAL + "[soup]\n", "soup averages the two paths"),
        (MINIMAL.replace("[vi]\nepochs = 3", ""), "no stage"),
        ('base = "recipe.toml"', "its own base"),
        (MINIMAL + "identity_weight = 0\ntriplet_weight = 0\n", "has no loss"),
        (MINIMAL + '[dev]\nname = "csv"\nroot = "dev"\n[evaluation]\nevery_epochs = 1\n', "not the one of"),
        ('cuda_graph = true\nprecision = "float16"\n' + MINIMAL, "use bfloat16"),
    ],
)
def test_files_that_are_no_recipe(recipe_file, text, message):
    with pytest.raises(InputError, match=message):
        load_recipe(recipe_file(text))


def test_an_unknown_recipe_lists_the_installed_ones():
    with pytest.raises(InputError, match="roadscene"):
        load_recipe("no-such-recipe")
