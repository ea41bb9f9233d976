"""The tokenizer of the recipe's base model, read from its files without torch or transformers."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from rlhf_core.errors import ModelError
from rlhf_core.settings.model import ModelSettings

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
NAMES, TEMPLATE, CONFIG = "special_tokens_map.json", "chat_template.jinja", "config.json"
READ = [TOKENIZER, TOKENIZER_CONFIG, NAMES, TEMPLATE, CONFIG]
"""The files of a model that are read here."""

PADDING = "<|pad|>"
"""The padding token of a tokenizer that has none of its own."""

_WITHOUT_DEFAULTS = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes of transformers' that have no special tokens but those that the files name."""


@dataclass(frozen=True)
class BaseTokenizer:
    """A tokenizer as training will have it, and what its folder says beside it."""

    tokenizer: Tokenizer
    named: Mapping[str, str]
    """Its special tokens by name, such as `eos_token`."""

    chat_template: str | None
    """The template that it carries, if it carries one."""

    context: int | None
    """Positions that the model has, where its configuration says so."""

    sha256: str
    """Of tokenizer.json."""

    @property
    def end(self) -> str | None:
        """The token with which training ends a response, where the files name it."""
        return self.named.get("eos_token")


def read_base_tokenizer(model: ModelSettings) -> BaseTokenizer:
    """Read the files of `model.base`; ModelError where they hold no tokenizer to train with."""
    assert model.base is not None, "a model made from nothing has no tokenizer to read"
    folder = _folder(model.base, model.revision)
    path = folder / TOKENIZER
    if not path.is_file():
        raise ModelError(
            f"model.base: {model.base} holds no {TOKENIZER}: load its tokenizer with transformers "
            "and save it into the folder again, which writes one."
        )
    content = path.read_bytes()
    tokenizer = Tokenizer.from_buffer(content)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    settings = _json(folder / TOKENIZER_CONFIG)
    named = _named(_json(folder / NAMES)) | _named(settings)
    if "eos_token" not in named and settings.get("tokenizer_class") in _WITHOUT_DEFAULTS:
        raise ModelError(
            f"The tokenizer of {model.base} has no end-of-sequence token, so a response could "
            f"never end: set eos_token in its {TOKENIZER_CONFIG}."
        )
    if "eos_token" in named and named.get("pad_token", named["eos_token"]) == named["eos_token"]:
        named["pad_token"] = PADDING
    special = [AddedToken(token, special=True, normalized=False) for token in named.values()]
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    more = [token for token in (*_added(settings), *special) if token.content not in known]
    tokenizer.add_tokens(list({token.content: token for token in more}.values()))
    return BaseTokenizer(
        tokenizer=tokenizer,
        named=named,
        chat_template=_template(settings, folder / TEMPLATE),
        context=_context(_json(folder / CONFIG)),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _folder(base: str, revision: str | None) -> Path:
    """The folder itself, or one with the files of a hub id that are read here."""
    folder = Path(base).expanduser()
    if folder.is_dir():
        return folder
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return Path(huggingface_hub.snapshot_download(base, revision=revision, allow_patterns=READ))
    except (errors.HTTPError, OSError, ValueError) as error:  # type: ignore[attr-defined]
        raise ModelError(
            f"model.base: {base} is no local folder, and its {TOKENIZER} could not be had from the "
            f"hub ({type(error).__name__}). Pass a folder: `--set model.base=PATH`."
        ) from error


def _json(path: Path) -> dict[str, Any]:
    """The object in the file; an empty one where there is no such file."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model.base: {path} cannot be read as JSON ({error}): copy the model again."
        ) from error
    return found if isinstance(found, dict) else {}


def _named(settings: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens that a configuration names; further ones by their number."""
    found: dict[str, str] = {}
    for name in ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token"):
        token = _content(settings.get(name))
        if token is not None:
            found[name] = token
    for name in ("additional_special_tokens", "extra_special_tokens"):
        more = settings.get(name)
        tokens = more.values() if isinstance(more, dict) else more or ()
        for number, given in enumerate(tokens):
            token = _content(given)
            if token is not None:
                found[f"{name}_{number}"] = token
    return found


def _content(token: object) -> str | None:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) and token else None


def _added(settings: Mapping[str, Any]) -> Iterator[AddedToken]:
    """The added tokens that a configuration lists, in the order of their ids."""
    listed = settings.get("added_tokens_decoder")
    if not isinstance(listed, dict):
        return
    for _, facts in sorted(listed.items(), key=lambda item: int(item[0])):
        content = _content(facts)
        if content is not None:
            yield AddedToken(
                content,
                special=bool(facts.get("special", False)),
                normalized=bool(facts.get("normalized", False)),
            )


def _template(settings: Mapping[str, Any], beside: Path) -> str | None:
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # of several, each with its name
        named = {of["name"]: of["template"] for of in template if isinstance(of, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _context(config: Mapping[str, Any]) -> int | None:
    inner = config.get("text_config")
    for section in (config, inner if isinstance(inner, dict) else {}):
        for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
            found = section.get(name)
            if isinstance(found, int) and not isinstance(found, bool) and found > 0:
                return found
    return None
