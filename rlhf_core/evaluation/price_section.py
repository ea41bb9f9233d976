"""The page's section on what tuning cost, and where more of it would cost what it gained."""

import math

from rlhf_core.evaluation.marks import estimate, table, text
from rlhf_core.evaluation.overoptimization import Fit
from rlhf_core.evaluation.results import Results
from rlhf_core.evaluation.wording import decimal, short


def price_section(results: Results) -> str:
    """Loss on plain text before and after, and the peak of best-of-n's law."""
    rows = []
    if results.tax is not None:
        tax = results.tax
        about = f"loss on {tax.texts} held-out plain texts ({tax.tokens} tokens), nats per token"
        rows += [
            [text(f"{about}: SFT"), estimate(tax.sft)],
            [text("the same of PPO"), estimate(tax.ppo)],
            [text("alignment tax: PPO minus SFT"), estimate(tax.difference)],
        ]
    law = results.best_of_n_law
    if law is not None:
        grade = "gold score" if results.judge == "gold" else "reward-model score"
        rows.append([text(f"best-of-n's law for the {grade}"), text(law_in_words(law))])
    return "<h2>What it costs</h2>" + table(["", ""], rows) if rows else ""


def law_in_words(law: Fit) -> str:
    """The fitted law with its peak: R(d) = d (alpha - beta d), d the root of the KL."""
    formula = f"R(d) = d ({short(law.alpha)} − {short(law.beta)} d), d = √KL".replace("− −", "+ ")
    if law.peak_distance is None or law.peak_gain is None:
        return f"{formula}; it only rises"
    n = math.exp(law.peak_distance**2 + 1)  # KL = ln n - (n - 1) / n, about ln n - 1
    reach = f"about n = {n:,.0f}" if n < 1e9 else "an n that nobody can draw"
    return f"{formula}; peak of {decimal(law.peak_gain)} at d = {short(law.peak_distance)}, {reach}"
