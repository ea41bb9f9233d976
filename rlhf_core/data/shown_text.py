"""Text of the user's as messages may show it: short, and nothing in it acts on a terminal."""


def escaped(text: str) -> str:
    """A short form of `text` for messages: 40 characters, no control character unescaped."""
    return ascii(text) if len(text) <= 40 else ascii(text[:40]) + f"... ({len(text)} characters)"


def visible(text: str) -> str:
    """The text as it stands, but with what cannot be seen, or turns the line around, escaped.

    Of more than 400 characters the middle is left out.
    """
    shown = "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )
    return shown if len(shown) <= 400 else f"{shown[:190]}...{shown[-190:]}"


def shown_key(key: str) -> str:
    """A key of the user's data as messages name it: short, with nothing a terminal acts on."""
    if key.isprintable() and 0 < len(key) <= 40:
        return key
    return escaped(key)
