"""The worker of compose.yaml: runs the recipes that it is given when Prefect is asked to.

Each recipe is a deployment `rlhf/<name>`. Its parameters are the recipe's values, all defaults
written out; Prefect's page lets them be changed for one run.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from rlhf_core.recipes import load_recipe
from tasks.environment import make_store_folder, prepare_environment, store_folder


def serve_recipes(paths: Sequence[Path], store: Path) -> None:
    """Run what Prefect asks for, one run after another, until the process is stopped."""
    recipes = [load_recipe(path) for path in paths]
    make_store_folder(store)
    prepare_environment(store)
    from prefect import serve
    from prefect.deployments.runner import RunnerDeployment
    from prefect.types.entrypoint import EntrypointType

    from flows.rlhf import rlhf_pipeline

    deployments = [
        RunnerDeployment.from_flow(
            rlhf_pipeline,
            recipe.name,
            parameters={"recipe": recipe.model_dump(mode="json"), "store": str(store)},
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        for recipe in recipes
    ]
    serve(*deployments, limit=1, pause_on_shutdown=False)


if __name__ == "__main__":
    serve_recipes([Path(argument) for argument in sys.argv[1:]], store_folder(None))
