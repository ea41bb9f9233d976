"""The page's section on what tuning cost, and where more of it would cost what it gained."""

import math

from rlhf_core.evaluation.course import Course
from rlhf_core.evaluation.overoptimization import Fit
from rlhf_core.evaluation.results import Results
from rlhf_core.pages.html import estimate, table, text
from rlhf_core.pages.wording import decimal, short


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
    grade = "gold score" if results.judge == "gold" else "reward-model score"
    law, course = results.best_of_n_law, results.course
    if law is not None:
        rows.append([text(f"best-of-n's law for the {grade}"), text(law_in_words(law))])
    if course is not None and course.law is not None:
        rows.append([text(f"PPO's law for the {grade}"), text(course_law_in_words(course.law))])
    if course is not None and results.judge == "gold":
        rows.append([text("over-optimisation"), text(turn_in_words(course))])
    return "<h2>What it costs</h2>" + table(["", ""], rows) if rows else ""


def course_law_in_words(law: Fit) -> str:
    """The fitted law of RL with its peak: R(d) = d (alpha - beta ln d)."""
    formula = f"R(d) = d ({short(law.alpha)} − {short(law.beta)} ln d), d = √KL"
    formula = formula.replace("− −", "+ ")
    if law.peak_distance is None or law.peak_gain is None:
        return f"{formula}; it only rises"
    return (
        f"{formula}; peak of {decimal(law.peak_gain)} at d = {short(law.peak_distance)}, "
        f"KL = {short(law.peak_distance**2)} nats"
    )


def turn_in_words(course: Course) -> str:
    """Where gold turned down while the reward model's score rose on, or that it did not."""
    turned, last = course.turned_at, course.points[-1]
    if turned is None or turned.gold is None or last.gold is None:
        return "gold rose, or fell together with the reward model's score, all along the course"
    return (
        f"gold turned after update {turned.update}, from {decimal(turned.gold)} at "
        f"{short(turned.kl)} nats to {decimal(last.gold)} at {short(last.kl)} nats, while the "
        f"reward model's score went from {short(turned.score)} to {short(last.score)}"
    )


def law_in_words(law: Fit) -> str:
    """The fitted law with its peak: R(d) = d (alpha - beta d), d the root of the KL."""
    formula = f"R(d) = d ({short(law.alpha)} − {short(law.beta)} d), d = √KL".replace("− −", "+ ")
    if law.peak_distance is None or law.peak_gain is None:
        return f"{formula}; it only rises"
    n = math.exp(law.peak_distance**2 + 1)  # KL = ln n - (n - 1) / n, about ln n - 1
    reach = f"about n = {n:,.0f}" if n < 1e9 else "an n that nobody can draw"
    return f"{formula}; peak of {decimal(law.peak_gain)} at d = {short(law.peak_distance)}, {reach}"
