"""The rules that a row must meet: one table, with what is done by default and how to mend."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

Action = Literal["refuse", "set_aside", "warn"]


class Rule(NamedTuple):
    """What is wrong, why it matters, and what the user can do about it."""

    id: str
    title: str
    action: Action
    why: str
    mend: str


_TABLE = (
    Rule(
        "JSON-001",
        "not-json",
        "refuse",
        "a line that is not one JSON object is no row; a cut line means that the file is not whole",
        "write one JSON object on each line, for example by `json.dumps(row)` in Python, and copy "
        "the file again if its end is missing",
    ),
    Rule(
        "JSON-002",
        "duplicate-key",
        "refuse",
        "a reader keeps one of the two values and loses the other",
        "keep one of the two keys",
    ),
    Rule(
        "ENC-001",
        "not-utf-8",
        "refuse",
        "the text would be garbled",
        "save the file as UTF-8; what it looks like, and the command for it, are named above",
    ),
    Rule(
        "ENC-002",
        "byte-order-mark-inside",
        "refuse",
        "files were joined without removing their marks",
        "remove the bytes EF BB BF at the start of this line: "
        "`sed -i '2,$s/^\\xEF\\xBB\\xBF//' FILE`",
    ),
    Rule(
        "ENC-003",
        "byte-order-mark-at-the-start",
        "warn",
        "UTF-8 needs no mark, and other readers take it for a part of the first key",
        "nothing has to be done here; to be rid of it: `sed -i '1s/^\\xEF\\xBB\\xBF//' FILE`",
    ),
    Rule(
        "SIZE-001",
        "row-too-large",
        "refuse",
        "a row of this size or depth is no training text and may fill the memory",
        "split the row or remove it; a line without end is often a file whose lines end in CR",
    ),
    Rule(
        "NUM-001",
        "not-a-number",
        "refuse",
        "NaN compares with nothing, and infinite or rounded numbers compare wrongly",
        "write a finite number below 2^53, or null where there is none, or remove the row",
    ),
    Rule(
        "SCH-001",
        "null",
        "refuse",
        "an absent value is not a text",
        "fill the value in or remove the row",
    ),
    Rule(
        "SCH-002",
        "missing-key",
        "refuse",
        "the row does not say what is needed",
        "add the key, or say under which name the file has it: in a recipe "
        "`data.TABLE.columns: {OURS: YOURS}`, for files `--columns OURS=YOURS`",
    ),
    Rule(
        "SCH-003",
        "key-nearly-known",
        "warn",
        "the key is not known, and so its value is not used; one of nearly its name would be",
        "rename the key, or say what it is: `--set data.TABLE.columns={OURS: YOURS}`; leave it if "
        "it is another thing",
    ),
    Rule(
        "SCH-004",
        "wrong-type",
        "refuse",
        "taking it for text would train on something nobody wrote",
        "write the value in the expected type",
    ),
    Rule(
        "TXT-001",
        "blank-text",
        "refuse",
        "nothing can be learnt from a blank text",
        "fill the text in or remove the row",
    ),
    Rule(
        "TXT-002",
        "lone-surrogate",
        "refuse",
        "half of a character pair cannot be encoded as UTF-8; libraries drop it in silence",
        "write the whole character, or remove the half",
    ),
    Rule(
        "TXT-003",
        "control-character",
        "refuse",
        "control characters come from damaged conversions and become tokens of their own",
        "remove the character",
    ),
    Rule(
        "TXT-005",
        "direction-override",
        "warn",
        "U+202D and U+202E make text read otherwise than it stands there; right-to-left scripts "
        "need neither",
        "remove the character, unless the text is about it",
    ),
    Rule(
        "TXT-006",
        "garbled-text",
        "warn",
        "the text was read in a wrong encoding once, and what it said is lost or disguised",
        "restore the text from its source; `ftfy` mends many such texts",
    ),
    Rule(
        "TXT-004",
        "nothing-after-the-opening",
        "set_aside",
        "the opening is the prompt, and no text is left to be the response",
        "lower opening_sentences or remove the row",
    ),
    Rule(
        "PREF-001",
        "ranks-do-not-fit",
        "refuse",
        "each response needs one whole number as rank, 1 for the best",
        "give `ranks` one whole number of at least 1 for each of at least two `responses`",
    ),
    Rule(
        "PREF-002",
        "no-preference",
        "set_aside",
        "where all ranks are equal nothing is preferred, and the loss has no gradient unless "
        "reward_model.ties says how ties are learnt",
        "remove the row, or keep it with `data.rules.PREF-002: warn` and `reward_model.ties: half`",
    ),
    Rule(
        "PREF-003",
        "no-shared-beginning",
        "refuse",
        "whole transcripts must share all up to the last '\\n\\nAssistant:', which is the prompt",
        "give both transcripts the same beginning, or give prompt, chosen and rejected apart",
    ),
    Rule(
        "PREF-004",
        "chosen-equals-rejected",
        "refuse",
        "the pair carries no preference; its loss is ln 2 and its gradient is zero",
        "remove the line",
    ),
    Rule(
        "PREF-005",
        "contradicting-pairs",
        "warn",
        "one row prefers what another rejects: labelers disagree, or a label was swapped",
        "keep both if people disagreed; otherwise remove the wrong one",
    ),
    Rule(
        "PREF-006",
        "margin-contradicts",
        "refuse",
        "the margin or the scores say that the rejected response is the better one: the two were "
        "swapped, or the sign was",
        "swap chosen and rejected and write the margin without its sign, if the label is wrong; "
        "otherwise correct the margin or the scores",
    ),
    Rule(
        "PREF-007",
        "scores-prefer-rejected",
        "warn",
        "the row scores its rejected response higher: a label was swapped, or the scores come from "
        "someone who disagrees",
        "swap chosen and rejected if the scores are right; otherwise leave the row",
    ),
    Rule(
        "PREF-008",
        "group-is-no-ranking",
        "warn",
        "the group's comparisons are incomplete or run in a circle; they are kept as pairs",
        "add the missing comparisons, or use `format: pairs`",
    ),
    Rule(
        "PREF-009",
        "transcripts-part-early",
        "set_aside",
        "the transcripts part before the last turn, so a response would hold the human's turns",
        "cut both transcripts after the turn in which they part, or remove the row",
    ),
    Rule(
        "PREF-010",
        "comparisons-in-a-circle",
        "warn",
        "a beats b, b beats c and c beats a: no score can put them in this order",
        "keep them if people disagreed; otherwise remove the comparison that is wrong",
    ),
    Rule(
        "ROLE-001",
        "starts-with-assistant",
        "refuse",
        "the assistant answers something that is not there",
        "begin `messages` with a user message (a system message may stand before it)",
    ),
    Rule(
        "ROLE-002",
        "turns-do-not-alternate",
        "refuse",
        "two messages of one role in a row: one of another role is missing",
        "join the two messages or add the missing one",
    ),
    Rule(
        "ROLE-003",
        "system-not-first",
        "refuse",
        "a system message in the middle would read as part of the dialogue",
        "move the system message to the start",
    ),
    Rule(
        "ROLE-004",
        "unknown-role",
        "refuse",
        "only system, user and assistant are known",
        "use one of these roles",
    ),
    Rule(
        "ROLE-005",
        "no-answer-at-the-end",
        "refuse",
        "the last message is the response, and must be the assistant's",
        "end `messages` with an assistant message",
    ),
    Rule(
        "TOK-001",
        "control-token",
        "refuse",
        "the text spells what a template alone may write, such as a role, an end or a turn marker, "
        "and so could forge another speaker's turn",
        "remove it from the text, or keep it as plain characters with data.control_tokens=literal "
        "(turn markers '\\n\\nHuman:' and '\\n\\nAssistant:' inside a message cannot be kept)",
    ),
    Rule(
        "TOK-002",
        "control-token-of-some-models",
        "warn",
        "a recipe whose base model has this token will refuse the row, and other programs read it "
        "as a turn that nobody wrote",
        "remove it from the text, or keep it as plain characters with data.control_tokens=literal "
        "in the recipe",
    ),
    Rule(
        "TOK-003",
        "turn-marker-in-text",
        "warn",
        "'\\n\\nHuman:' or '\\n\\nAssistant:' marks no turn here, and in a plain transcript a "
        "model learns to write the other side's turns from it",
        "cut the text before the marker, or give the dialogue as `messages`",
    ),
    Rule(
        "TOK-004",
        "end-token-written-out",
        "warn",
        "the response spells the end token, which training appends by itself: with "
        "data.control_tokens=literal the model learns to write its characters first",
        "remove the end token from the end of the response",
    ),
    Rule(
        "LEN-001",
        "prompt-too-long",
        "set_aside",
        "the prompt does not fit into model.max_prompt_tokens",
        "raise model.max_prompt_tokens, or shorten the prompt",
    ),
    Rule(
        "LEN-002",
        "response-too-long",
        "set_aside",
        "a cut response would teach the model not to end",
        "raise model.max_response_tokens, or shorten the response",
    ),
    Rule(
        "DATA-001",
        "no-rows",
        "refuse",
        "a file without rows was named by mistake, or its writing failed",
        "pass a file with rows, or take this one out of the recipe",
    ),
    Rule(
        "DATA-002",
        "other-format",
        "refuse",
        "what a file holds is told by its first bytes, and another kind than its name says means "
        "that one of the two is a mistake",
        "rename or convert the file as said above",
    ),
    Rule(
        "DATA-003",
        "damaged-file",
        "refuse",
        "the file is not whole, and what is missing cannot be known",
        "copy or download the file again, and compare its SHA-256 with that of the original",
    ),
    Rule(
        "DATA-004",
        "document-not-lines",
        "refuse",
        "rows are read line by line, so that each has a place of its own and none fills the memory",
        "write one object on each line; jq, as said above, or in Python "
        "`for row in json.load(file): print(json.dumps(row))`",
    ),
    Rule(
        "DATA-005",
        "file-not-there",
        "refuse",
        "a path that leads to no file was misspelt, or the file was never brought here",
        "correct the path, or bring the file; a path is relative to where the command is run",
    ),
    Rule(
        "LEN-003",
        "equal-within-the-budget",
        "set_aside",
        "as far as the model reads them, a response and a worse one are the same tokens, so the "
        "comparison teaches nothing",
        "raise model.max_response_tokens, or remove the row",
    ),
    Rule(
        "LEN-004",
        "length-predicts-preference",
        "warn",
        "a rule that looks at length alone is right so often that a reward model will learn length",
        "add comparisons of responses of similar length, and compare the reward model's accuracy "
        "with this one",
    ),
    Rule(
        "LEN-005",
        "no-room-for-the-answer",
        "warn",
        "after this prompt an answer of model.max_response_tokens does not fit into the model's "
        "context",
        "lower model.max_prompt_tokens or model.max_response_tokens so that both fit",
    ),
    Rule(
        "DUP-001",
        "duplicate-row",
        "set_aside",
        "an equal row counts twice",
        "remove the line",
    ),
    Rule(
        "LEAK-001",
        "almost-an-evaluation-prompt",
        "warn",
        "training on nearly the same prompt makes the evaluation look better than it is",
        "set such rows aside: `--set data.rules.LEAK-001=set_aside`, or split by a column that "
        "keeps the two together: `--set data.split_by=COLUMN`",
    ),
    Rule(
        "LEAK-002",
        "almost-a-validation-prompt",
        "warn",
        "training on nearly the same prompt makes the validation look better than it is",
        "set such rows aside: `--set data.rules.LEAK-002=set_aside`, or split by a column that "
        "keeps the two together: `--set data.split_by=COLUMN`",
    ),
)

RULES: Mapping[str, Rule] = {rule.id: rule for rule in _TABLE}

LENGTH_RULES = frozenset({"LEN-001", "LEN-002"})
"""Their action is a setting of its own, and rows they set aside do not count against the limit."""

_USABLE = frozenset(
    {
        *("PREF-002", "PREF-005", "PREF-008", "PREF-010", "DUP-001"),
        *("LEAK-001", "LEAK-002"),
        *("TOK-002", "TOK-003", "TOK-004", "LEN-003", "LEN-004", "LEN-005"),
    }
)
"""The rules whose rows can be trained on as they are."""

BESIDE_ROWS = frozenset({"ENC-003", "SCH-003", "TXT-005", "TXT-006", "PREF-007"})
"""The rules whose faults stand beside a row that was read, and not in its place."""

FILE_RULES = frozenset({"DATA-001", "DATA-002", "DATA-003", "DATA-004", "DATA-005"})
"""The rules of whole files, of which nothing can be set aside."""

_OF_TABLES = frozenset({"LEN-004"})
"""The rules that look at many rows together: no single one could be set aside."""


def allowed_actions(rule_id: str) -> tuple[Action, ...]:
    """What a recipe may do with rows that break the rule."""
    if rule_id in FILE_RULES:
        return ("refuse",)
    if rule_id in _OF_TABLES:
        return ("refuse", "warn")
    if rule_id in _USABLE or rule_id in BESIDE_ROWS:
        return ("refuse", "set_aside", "warn")
    return ("refuse", "set_aside")
