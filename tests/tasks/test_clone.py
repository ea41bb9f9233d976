"""The difference between a clone and its commit is kept whole, without files that are no code."""

import subprocess

import pytest

from tasks.clone import clone_diff


@pytest.fixture
def clone(tmp_path):
    def git(*arguments):
        subprocess.run(
            ["git", "-C", tmp_path, "-c", "user.name=t", "-c", "user.email=t@t", *arguments],
            check=True,
            capture_output=True,
        )

    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "code.py").write_text("first = 1\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "one")
    return tmp_path


def test_changed_and_new_code_is_in_the_difference_and_other_new_files_are_not(clone):
    (clone / "package" / "code.py").write_text("first = 2\n")
    (clone / "package" / "neu ü.py").write_text("second = 3\n")
    (clone / "secrets.env").write_text("password")

    difference = clone_diff(clone / "package")

    assert "-first = 1\n+first = 2" in difference
    assert "+second = 3" in difference
    assert "password" not in difference


def test_the_difference_applied_to_the_commit_gives_the_code_that_ran(clone, tmp_path_factory):
    (clone / "package" / "code.py").write_text("first = 2\n\n\n# end  \n")
    (clone / "new.py").write_text("second = 3\n")
    difference = clone_diff(clone)
    copy = tmp_path_factory.mktemp("copy") / "clone"
    subprocess.run(["git", "clone", "--quiet", clone, copy], check=True)

    subprocess.run(["git", "-C", copy, "apply"], input=difference, text=True, check=True)

    assert (copy / "package" / "code.py").read_text() == "first = 2\n\n\n# end  \n"
    assert (copy / "new.py").read_text() == "second = 3\n"


def test_a_clone_that_is_its_commit_differs_in_nothing(clone):
    assert clone_diff(clone).strip() == ""
