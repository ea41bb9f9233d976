"""The lineage page: whole without anything from outside, whatever the names hold."""

import re
import shutil
from html.parser import HTMLParser

import pytest

from tasks.fingerprints import content_digest
from tasks.lineage import trace
from tasks.lineage_page import lineage_page
from tests.tasks.small_artifacts import flip_bit, make_chain
from tests.tiny_models import tiny_policy, words


class Reader(HTMLParser):
    """Collects tags, ids and links."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.attributes += list(values)
        self.ids |= {values["id"]} if "id" in values else set()
        self.links += [values["href"]] if "href" in values else []


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


@pytest.fixture
def chain(tmp_path):
    return make_chain(tmp_path)


def page_of(chain, stage="ppo"):
    return lineage_page(trace(chain.digest(stage), chain.store))


def test_the_page_names_every_artifact_file_setting_and_version(chain):
    page = page_of(chain)

    for stage, handle in chain.made.items():
        assert f"{stage}  {handle.digest[:12]}" in page
        assert handle.digest in page
    for fact in (
        "demos.jsonl",
        "pairs.jsonl",
        "ppo.kl_coef",
        "seed 1",
        "torch",
        "rlhf_core.models",
    ):
        assert fact in page


def test_nothing_comes_from_outside_and_no_script_runs(chain):
    page = page_of(chain)
    reader = read(page)

    assert not {"script", "img", "iframe", "object", "embed"} & set(reader.tags)
    assert "url(http" not in page
    assert "@import" not in page
    assert not [name for name in reader.attributes if name.startswith("on")]
    assert "prefers-color-scheme: dark" in page


def test_every_box_leads_to_its_section_and_every_run_has_a_link(chain):
    reader = read(page_of(chain))

    inside = {link[1:] for link in reader.links if link.startswith("#")}
    assert inside <= reader.ids
    assert {anchor.partition("-")[0] for anchor in inside} == set(chain.made)
    outside = [link for link in reader.links if not link.startswith("#")]
    assert f"http://127.0.0.1:5000/#/runs/{chain.made['ppo'].run_id}" in outside
    assert any(link.endswith("/runs/flow-run/flow-run") for link in outside)


def test_arrows_point_down_and_one_that_skips_a_layer_keeps_clear_of_the_boxes(chain):
    page = page_of(chain)
    boxes = [
        tuple(map(int, box))
        for box in re.findall(r'<rect x="(\d+)" y="(\d+)" width="(\d+)" height="(\d+)" rx', page)
    ]
    lanes = re.findall(r'class="arrow \w+" d="M(\d+),(\d+) H(\d+) V(\d+)', page)

    assert len(boxes) == 5  # raw files and four artifacts
    assert len(lanes) == 3  # data to reward_model and ppo, sft to ppo
    for _, start, lane, end in (tuple(map(int, found)) for found in lanes):
        assert end > start
        assert all(lane > x + width for x, _, width, _ in boxes)


def test_markup_in_a_name_or_a_setting_stays_text(tmp_path):
    chain = make_chain(tmp_path, "model.prompt_template='<script>{prompt}'", stages=("data",))

    page = page_of(chain, "data")

    assert "script" not in read(page).tags
    assert "&lt;script&gt;{prompt}" in page


def test_what_is_missing_or_damaged_is_shown_as_that(chain):
    flip_bit(chain.made["sft"].path / "manifest.json", at=30)
    shutil.rmtree(chain.made["data"].path)

    page = page_of(chain)

    assert 'class="box data absent"' in page
    assert 'class="box sft damaged"' in page
    assert "Not here: only its digest is known." in page


def test_a_base_model_in_a_folder_is_named_by_its_content(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = tmp_path / "base"
    words().save_pretrained(base)
    tiny_policy().save_pretrained(base)
    knows_no_word = "data.rules.LEN-003=warn"  # so that all responses are the same to it
    chain = make_chain(tmp_path, "model={base: base}", knows_no_word, stages=("data", "sft"))

    page = page_of(chain, "sft")

    assert f"base, sha256 {content_digest(base)[:12]}" in page
    assert "revision not named" not in page
