"""The text that is tokenized is the text that came in, character by character."""

import json
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_core.batches import Encoder
from rlhf_core.new_tokenizers import byte_pair_tokenizer
from rlhf_core.pretrained import load_tokenizer
from rlhf_core.report import ignore
from rlhf_core.settings.data import DataSettings
from rlhf_core.settings.model import ModelSettings, ScratchModelSettings
from rlhf_core.stages.data import make_data
from rlhf_core.tables import read_demonstrations, read_prompts, read_text
from tests.test_chat import GPT2, gpt2
from tests.tiny_models import STORIES

ANY_LENGTH = ModelSettings(
    scratch=ScratchModelSettings(), max_prompt_tokens=10**6, max_response_tokens=10**6
)
TEXTS = {
    "German": "Größe, Maß und Übermut",
    "Chinese": "今天天气很好。",
    "Japanese": "「はい」と言った。",
    "Korean": "안녕하세요",
    "Arabic, right to left": "مرحبا بالعالم (123)",
    "Hebrew with points": "שָׁלוֹם",
    "Hindi": "नमस्ते दुनिया",
    "Thai": "สวัสดีชาวโลก",
    "Greek": "ἐν ἀρχῇ ἦν ὁ λόγος",
    "Russian": "Съешь же ещё этих мягких французских булок",
    "Vietnamese, composed": "Việt Nam",
    "Vietnamese, decomposed": "Vie\u0302\u0323t Nam",
    "Turkish": "İstanbul ılık",
    "emoji in families": "👩\u200d👩\u200d👧\u200d👦 🏳️\u200d🌈 👍🏽",
    "beyond the first plane": "𝒜𐍈 𝟙",
    "line ends": "one\r\ntwo\rthree\nfour",
    "tabs and runs of spaces": "if x:\n\treturn  1    # so",
    "separators": "a\u2028b\u2029c\u0085d\u00a0e\u3000f",
    "invisible": "a\u200bb\u2060c\u00add\ufeffe",
    "maths and code": "∀ε>0 ∃δ: |f(x)−f(y)|<ε; `a[i] += b<<2` $\\frac{1}{2}$",
    "HTML": "<p class='x'>1 &lt; 2 &amp; <s>struck</s></p>",
    "ligatures and width": "ﬁ Ａ ﷺ ½",
}


@cache
def tokenizer(name: str):
    if name == "gpt2":
        if not GPT2.is_dir():
            pytest.skip("the folder of public data is not beside this one")
        return gpt2()
    if name == "stories":
        if not STORIES.is_dir():
            pytest.skip("the folder of public data is not beside this one")
        return load_tokenizer(STORIES)
    return byte_pair_tokenizer(["the printer is on fire"] * 5, 300)


def made(folder: Path, *, ascii_only: bool) -> Path:
    """The data stage's tables of one row for each text, written as people and as programs do."""
    for name, columns in {"d": ("prompt", "response"), "t": ("text",)}.items():
        rows = [
            dict.fromkeys(columns, text) | ({"prompt": f"{n} {text}"} if name == "d" else {})
            for n, text in enumerate(TEXTS.values())
        ]
        lines = [json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
    out = folder / "out"
    out.mkdir()
    settings = DataSettings.model_validate(
        {
            "demonstrations": {"source": str(folder / "d.jsonl")},
            "text": {"source": str(folder / "t.jsonl")},
        }
    )
    make_data(settings, ANY_LENGTH, out_dir=out, report=ignore, seed=1)
    return out


@pytest.mark.parametrize("ascii_only", [True, False])
def test_the_tables_hold_the_very_text_of_the_json(tmp_path, ascii_only):
    out = made(tmp_path, ascii_only=ascii_only)
    given = dict(enumerate(TEXTS.values(), start=1))
    seen = set()
    for split in ("train", "validation"):
        demonstrations, texts = read_demonstrations(out, split), read_text(out, split)
        for line, prompt, response in zip(
            demonstrations.line, demonstrations.prompt, demonstrations.response, strict=True
        ):
            assert (prompt, response) == (f"{line - 1} {given[line]}", given[line])
            seen.add(line)
        for line, text in zip(texts.line, texts.text, strict=True):
            assert text == given[line]
    for line, prompt in zip(
        read_prompts(out, "evaluation").line, read_prompts(out, "evaluation").prompt, strict=True
    ):
        assert prompt == f"{line - 1} {given[line]}"
        seen.add(line)
    assert seen == set(given)


@pytest.mark.parametrize("name", ["bytes", "gpt2", "stories"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_is_tokenized_reads_back_as_the_text(name, text):
    encode = Encoder(tokenizer(name), ModelSettings(base="here", chat_template="none"))
    (prompt,) = encode.prompts([text])
    (response,) = encode.responses([text], [text])
    (plain,) = encode.plain_texts([text])
    beginning = 1 if name == "stories" else 0
    decode = encode.tokenizer.decode
    assert decode(prompt[beginning:]) == decode(plain[beginning:]) == text
    assert decode([*prompt, *response[:-1]][beginning:]) == f"{text} {text}"


@settings(max_examples=80, derandomize=True, deadline=None)
@given(text=st.text(min_size=1, max_size=30))
def test_any_text_reads_back(text):
    encode = Encoder(tokenizer("bytes"), ModelSettings(base="here", chat_template="none"))
    assert encode.tokenizer.decode(encode.plain_texts([text])[0]) == text
