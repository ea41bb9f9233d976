"""How sets of answers are worded for a reader."""

from rlhf_core.evaluation.results import SetName


def label(name: SetName, n: int) -> str:
    """The set's name on the page."""
    return {
        "sft": "SFT",
        "sft_greedy": "SFT, greedy",
        "best_of_n": f"SFT, best of {n}",
        "best_of_n_by_likelihood": f"SFT, likeliest of {n}",
        "demonstrations": "demonstrations",
        "ppo": "PPO",
        "ppo_greedy": "PPO, greedy",
    }[name]
