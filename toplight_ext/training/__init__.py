"""The training layer: recipes, the four stages, one loop, and run folders that can be resumed."""

from .loop import Interrupted, TrainingError
from .recipe import Recipe, find_recipe, installed_recipes, load_recipe
from .run import Run, environment
from .runner import resume, start
from .stages import reestimate_statistics

__all__ = [
    "Interrupted",
    "Recipe",
    "Run",
    "TrainingError",
    "environment",
    "find_recipe",
    "installed_recipes",
    "load_recipe",
    "reestimate_statistics",
    "resume",
    "start",
]
