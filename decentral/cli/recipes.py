"""`decentral recipes`: what there is to run."""

from __future__ import annotations

from decentral.cli.output import JsonOption, say_json, say_table


def recipes(as_json: JsonOption = False) -> None:
    """List the recipes that decentral brings."""
    from decentral.run.recipe import describe, recipe_files

    listed = [{"name": file.stem, "about": describe(file), "file": str(file)} for file in recipe_files()]
    if as_json:
        say_json(listed)
    else:
        say_table(("recipe", "about"), [(recipe["name"], recipe["about"]) for recipe in listed])
