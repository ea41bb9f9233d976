"""`rlhf recipe`: about recipes."""

import click

from flows import console
from rlhf_core.recipes import recipe_schema


@click.group()
def recipe() -> None:
    """About recipes."""


@recipe.command()
def schema() -> None:
    """Print the JSON schema of a recipe, for editors."""
    console.show_json(recipe_schema())
