"""`decentral show`: a recipe with every value that a run of it would use."""

from __future__ import annotations

from decentral.cli.output import JsonOption, PluginOption, RecipeArgument, SetOption, load_plugins, say, say_json


def show(
    recipe: RecipeArgument, overrides: SetOption = None, plugins: PluginOption = None, as_json: JsonOption = False
) -> None:
    """Print a recipe resolved, with its hash.

    Peers compare that hash when they join one another.
    """
    from decentral.run.serving_recipe import load_any_recipe

    load_plugins(plugins)
    resolved = load_any_recipe(recipe, overrides or ())
    if as_json:
        say_json({"hash": resolved.hash, "recipe": resolved.model_dump()})
    else:
        say(resolved.to_yaml().rstrip())
