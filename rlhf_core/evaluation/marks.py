"""Pieces of HTML that show a set of answers or a picture."""

from base64 import b64encode
from pathlib import Path

from rlhf_core.evaluation.canvas import COLOURS
from rlhf_core.evaluation.pictures import Picture
from rlhf_core.evaluation.results import SetName
from rlhf_core.pages.html import text


def named(name: SetName, label: str) -> str:
    """The label of a set, behind a dot of its colour."""
    return f'<span class="dot" style="background:{COLOURS[name]}"></span>{text(label)}'


def figure(picture: Picture, folder: Path) -> str:
    """The picture itself, so that the page needs no other file."""
    image = b64encode((folder / picture.file).read_bytes()).decode("ascii")
    alt = text(picture.caption)
    return (
        f'<figure><img alt="{alt}" src="data:image/png;base64,{image}">'
        f"<figcaption>{alt}</figcaption></figure>"
    )
