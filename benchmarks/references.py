"""Compare our losses with other people's releases: `python -m benchmarks.references`.

Installs each release into a folder of its own, beside the packages of this environment and without
its dependencies, and runs `tests/test_references.py` with it.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

RELEASES = {
    "trl==1.12.0": "the last release with PPO: rewards, whitening, both losses",
    "trl==1.16.0": "the pair loss",
}

ROOT = Path(__file__).parents[1]
MODULE = "tests/test_references.py"


def main() -> int:
    """0 where every comparison agrees."""
    failed = 0
    with tempfile.TemporaryDirectory(prefix="references-") as folder:
        for release, about in RELEASES.items():
            place = Path(folder) / release
            install = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place)]
            subprocess.run([sys.executable, *install, release], check=True)
            sys.stdout.write(f"{release} ({about}):\n")
            sys.stdout.flush()
            path = os.pathsep.join([str(place), str(ROOT), os.environ.get("PYTHONPATH", "")])
            environment = os.environ | {"PYTHONPATH": path, "TRL_EXPERIMENTAL_SILENCE": "1"}
            tests = ["-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", MODULE]
            done = subprocess.run([sys.executable, *tests], cwd=ROOT, env=environment, check=False)
            failed = failed or done.returncode
    return failed


if __name__ == "__main__":
    sys.exit(main())
