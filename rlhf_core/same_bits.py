"""What has to be said to the libraries so that equal runs give equal bits."""

import os

STRICT_MATHS = {"MKL_CBWR": "AUTO,STRICT"}
"""Environment of Intel's MKL: without it the last bits of a product depend on where in memory the
matrices happen to lie, which differs from run to run and from copy to copy."""


def ask_for_same_bits() -> None:
    """Results depend on inputs alone, unless the user's environment says otherwise.

    MKL reads this once, when it first computes.
    """
    for name, value in STRICT_MATHS.items():
        os.environ.setdefault(name, value)
