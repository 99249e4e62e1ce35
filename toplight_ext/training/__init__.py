"""The training layer: recipes, the four stages, one loop, and run folders that can be resumed."""

from .ablation import AblationRow, ablate, ablation_table
from .recipe import Recipe
from .recipe_files import find_recipe, installed_recipes, load_recipe
from .run import Run, environment
from .runner import resume, start
from .stages import reestimate_statistics, stage_streams
from .stopping import Interrupted, TrainingError

__all__ = [
    "AblationRow",
    "Interrupted",
    "Recipe",
    "Run",
    "TrainingError",
    "ablate",
    "ablation_table",
    "environment",
    "find_recipe",
    "installed_recipes",
    "load_recipe",
    "reestimate_statistics",
    "resume",
    "stage_streams",
    "start",
]
