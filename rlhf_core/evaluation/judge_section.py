"""The page's section on the served judge."""

from rlhf_core.evaluation import marks
from rlhf_core.evaluation.canvas import COLOURS
from rlhf_core.evaluation.results import Results
from rlhf_core.evaluation.wording import label
from rlhf_core.pages.html import estimate, table, text, whisker
from rlhf_core.pages.wording import percent


def judge_section(results: Results) -> str:
    """Win rates by the served judge, and how far it can be trusted; empty without one."""
    settings = results.settings.judge
    if settings is None or not results.judgements:
        return ""
    rows = [
        [
            marks.named(rival, label(rival, results.settings.best_of_n)),
            whisker(judgement.rate, 0, 1, colour=COLOURS["ppo"], mark=0.5),
            estimate(judgement.rate, share=True),
            str(len(judgement.asked)),
            percent(judgement.disagreement),
            percent(judgement.first_wins),
            percent(judgement.unclear),
        ]
        for rival, judgement in results.judgements.items()
    ]
    heads = ["PPO against", "", "win rate", "pairs", "changed sides", "first read wins", "unclear"]
    return (
        f"<h2>Win rates of PPO by {text(settings.model)}</h2>"
        + table(heads, rows)
        + '<p class="soft">Each pair was asked about in both orders; where the verdict changed '
        "sides with the order it is a tie. A judge without bias lets the first read win half of "
        "its clear verdicts. All verdicts: judgements.jsonl.</p>"
    )
