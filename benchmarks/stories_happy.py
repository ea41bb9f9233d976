"""Run `recipes/stories-happy.yaml` and ask a judge that it has never seen whether stories improved.

    python -m benchmarks.stories_happy --data shared/data

The judge is a linear model of word pairs, fitted to people's ratings of whole sentences (tweets,
reviews, news); the recipe's labeler knows ratings of single words only. Printed are how well the
judge predicts ratings that it was not fitted to, in which share of the held-out openings it prefers
PPO's story to SFT's, the KL between both, and the loss on other stories before and after.
"""

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from rlhf_core.batches import Encoder
from rlhf_core.evaluation.measures import win_points
from rlhf_core.evaluation.text_loss import AlignmentTax, alignment_tax, text_losses
from rlhf_core.labelers.sentiment import sentences_of
from rlhf_core.pretrained import load_policy, load_tokenizer
from rlhf_core.settings.model import ModelSettings
from rlhf_core.statistics import Interval, bootstrap_mean

RECIPE = Path(__file__).parent.parent / "recipes" / "stories-happy.yaml"

Judge = Callable[[str], float]

OTHER_STORIES = Path("text") / "tinystories_jlens_1000.jsonl.gz"

HELD_OUT = 5
"""Every fifth rating is not fitted to; how well it is predicted says what the judge is worth."""


def sentiment_judge(ratings: Path) -> tuple[Judge, float]:
    """The judge, and the correlation of its numbers with ratings that it was not fitted to."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline

    with gzip.open(ratings, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    texts = [row["text"] for row in rows]
    rated = np.array([float(row["rating"]) for row in rows])
    is_held_out = np.arange(len(rows)) % HELD_OUT == 0
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=3, sublinear_tf=True), Ridge(alpha=1.0)
    )
    model.fit(
        [text for text, held in zip(texts, is_held_out, strict=True) if not held],
        rated[~is_held_out],
    )
    predicted = model.predict([text for text, held in zip(texts, is_held_out, strict=True) if held])
    correlation = float(np.corrcoef(predicted, rated[is_held_out])[0, 1])

    def judge(story: str) -> float:
        return float(model.predict(sentences_of(story)).mean())

    return judge, correlation


def preference(judge: Judge, ours: Sequence[str], theirs: Sequence[str]) -> Interval:
    """Share of the openings whose story of ours is judged happier; a tie counts half."""
    points = win_points([judge(text) for text in ours], [judge(text) for text in theirs])
    return bootstrap_mean(points, [1.0] * len(points), samples=2000, seed=1)


def stage_folders(data: Path, store: Path, seed: int, overrides: Sequence[str]) -> dict[str, Path]:
    """Run the recipe by the command; the folder of each stage's artifact."""
    values = [
        f"seed={seed}",
        f"model.base={data / 'models' / 'stories260K'}",
        f"data.demonstrations.source={data / 'text' / 'tinystories.jsonl.gz'}",
        f"data.text.source={data / OTHER_STORIES}",
        "data.text.split=train",
        "evaluation.shown_samples=1000",  # all of them, to be judged here
        *overrides,
    ]
    command = [sys.executable, "-m", "flows.cli", "run", str(RECIPE), "--store", str(store)]
    done = subprocess.run(
        [*command, "--json", *(part for value in values for part in ("--set", value))],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"rlhf run ended with exit code {done.returncode}")
    stages = json.loads(done.stdout)["stages"]
    return {name: Path(facts["path"]) for name, facts in stages.items()}


def story_losses(folders: dict[str, Path], data: Path) -> AlignmentTax:
    """Loss of SFT and PPO on other stories, which neither was trained on."""
    with gzip.open(data / OTHER_STORIES, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    provenance = json.loads((folders["ppo"] / "provenance.json").read_text(encoding="utf-8"))
    model = ModelSettings.model_validate(provenance["fingerprint"]["settings"]["model"])
    encoder = Encoder(load_tokenizer(folders["sft"]), model)
    sft, ppo = (
        text_losses(load_policy(folders[stage]).eval(), encoder, texts, batch_size=32)
        for stage in ("sft", "ppo")
    )
    return alignment_tax(sft, ppo, bootstrap_samples=2000, seed=1)


def main() -> None:
    """Run the recipe and print what the unseen judge says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the public data")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="override, as of `rlhf run`")
    parser.add_argument("--store", type=Path, help="keep the artifacts in this folder")
    arguments = parser.parse_args()
    data: Path = arguments.data.resolve()
    judge, correlation = sentiment_judge(data / "sentiment" / "hutto_human_ratings.jsonl.gz")
    print(f"judge: correlation {correlation:.3f} with held-out ratings of people", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        started = time.monotonic()
        store = arguments.store or Path(temporary)
        folders = stage_folders(data, store, arguments.seed, arguments.set)
        print(f"rlhf run: {time.monotonic() - started:.0f} s", flush=True)
        report(judge, folders, story_losses(folders, data))


def report(judge: Judge, folders: dict[str, Path], tax: AlignmentTax) -> None:
    """Print the figures of the run."""
    figures = json.loads((folders["evaluation"] / "metrics.json").read_text())["metrics"]
    card = json.loads((folders["reward_model"] / "scorecard.json").read_text())
    lines = (folders["evaluation"] / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line)["answers"] for line in lines]
    share = preference(
        judge,
        [answer["ppo"]["response"] for answer in answers],
        [answer["sft"]["response"] for answer in answers],
    )
    print(
        f"the unseen judge prefers PPO to SFT in {share.mean:.3f} [{share.low:.3f}, "
        f"{share.high:.3f}] of {len(answers)} held-out openings\n"
        f"KL to SFT: {figures['kl_to_reference']:.2f} nats a story\n"
        f"loss on {tax.texts} other stories: SFT {tax.sft.mean:.3f}, PPO {tax.ppo.mean:.3f} nats a "
        f"token, PPO minus SFT {tax.difference.mean:+.3f}\n"
        f"ended: SFT {figures['ended_share_sft']:.3f}, PPO {figures['ended_share_ppo']:.3f}\n"
        f"reward-model accuracy: {card['accuracy']:.3f}"
    )


if __name__ == "__main__":
    main()
