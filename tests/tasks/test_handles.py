"""What travels between tasks is small and survives Prefect's JSON."""

from pathlib import Path

from prefect.serializers import JSONSerializer

from rlhf_core.recipes import load_recipe
from tasks.handles import Handle, stage_job

HANDLE = Handle("sft", Path("/store/objects/ab"), "ab" * 32, "run-1")


def test_a_handle_comes_back_from_prefects_json_as_it_was():
    serializer = JSONSerializer()
    assert serializer.loads(serializer.dumps(HANDLE)) == HANDLE


def test_a_job_is_named_by_its_stage_and_fingerprint(tiny_recipe: Path):
    recipe = load_recipe(tiny_recipe)
    job = stage_job(recipe, "reward_model", sft=HANDLE)

    assert job.key == f"reward_model-{job.fingerprint.digest}"
    assert job.fingerprint.inputs == {"sft": HANDLE.digest}
    assert job.input_path("sft") == HANDLE.path
