"""The version of this code: of the package, and of the clone that it runs from."""

import subprocess
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import rlhf_core

CODE = Path(rlhf_core.__file__).parent

_DIFF = ("diff", "--no-color", "--no-ext-diff")


@dataclass(frozen=True)
class CodeVersion:
    """The version of this code; commit and state of the clone where it runs from one."""

    package: str
    git_commit: str | None
    git_dirty: bool | None
    """Whether the clone differs from the commit."""


@cache
def code_version() -> CodeVersion:
    """The installed version, and the commit of the clone that the package lies in, if any."""
    package = installed_version("rlhf") or "unknown"
    if _git(CODE, "ls-files", "--error-unmatch", "__init__.py") is None:
        return CodeVersion(package, None, None)
    commit = _git(CODE, "rev-parse", "HEAD")
    return CodeVersion(package, commit, bool(_git(CODE, "status", "--porcelain")))


@cache
def code_diff() -> str | None:
    """What the clone that this code runs from has changed; None where that is nothing."""
    return clone_diff(CODE) if code_version().git_dirty else None


def clone_diff(folder: Path) -> str:
    """What the clone around `folder` has that its commit has not, new Python files too."""
    top = Path(_git(folder, "rev-parse", "--show-toplevel") or folder)
    parts = [_git(top, *_DIFF, "HEAD")]
    new = _git(top, "ls-files", "-z", "--others", "--exclude-standard") or ""
    parts += [
        _git(top, *_DIFF, "--no-index", "--", "/dev/null", name, differs=True)
        for name in new.split("\0")
        if name.endswith(".py")  # other new files may be data or hold secrets
    ]
    return "\n".join(part for part in parts if part) + "\n"


def installed_version(name: str) -> str | None:
    """The version of an installed distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str, differs: bool = False) -> str | None:
    """What git prints, or None where there is no git or no clone; `differs`: 1 is no fault."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
            errors="replace",
        )
    except OSError:
        return None
    return done.stdout.rstrip("\n") if done.returncode in (0, int(differs)) else None
