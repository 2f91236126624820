"""Names of recipes; light, so that a command can check one before it imports PyTorch."""

from importlib.resources import files

from condinst_deploy.support.toml_config import named_settings

RECIPES = files("condinst_deploy") / "training" / "recipes"
"""Folder of the recipes that come with the package."""


def sizes_named(name: str) -> tuple[bool, bool]:
    """Return whether a recipe, or its base, sets sizes for inference, and whether it sets sizes for training.

    Raises:
        ConfigError: the package has none of that name, or it cannot be read.
        MissingFileError: the file does not exist.
    """
    named = named_settings(name, RECIPES)
    inference = {"model.preprocessing.short_side", "model.preprocessing.long_side"}
    return bool(named & inference), "short_sides" in named


def check_recipe_is_there(name: str) -> None:
    """Check that a recipe is there and can be read; its settings are checked by `load_recipe`.

    Raises:
        ConfigError: the package has none of that name, or it cannot be read.
        MissingFileError: the file does not exist.
    """
    named_settings(name, RECIPES)
