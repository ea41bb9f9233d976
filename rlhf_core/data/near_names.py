"""Keys that are nearly those we know: misspelt, in the plural, or in other letters."""

import difflib
from collections.abc import Collection, Iterable
from itertools import islice

_LOOKED_AT = 500


def nearest_key(name: str, keys: Iterable[str]) -> str | None:
    """The key that may have been meant by `name`; None where none is like it."""
    by_plain_name = {_plain(key): key for key in reversed([*islice(keys, _LOOKED_AT)])}
    near = difflib.get_close_matches(_plain(name), by_plain_name, n=1)
    return by_plain_name[near[0]] if near else None


def nearly_known(key: str, known: Collection[str]) -> str | None:
    """The known name of which the key is a slip of the pen; None where it is a name of its own.

    A slip is another case, a hyphen or blank for an underscore, a plural, or one letter that is
    missing, too many, wrong, or changed places with the next.
    """
    plain = _plain(key)
    return next((name for name in known if name != key and _is_slip(plain, name)), None)


def _plain(name: str) -> str:
    return name.strip().casefold().replace("-", "_").replace(" ", "_")


def _is_slip(found: str, name: str) -> bool:
    if found in (name, f"{name}s", f"{name}_"):
        return True
    if len(name) < 5 or abs(len(found) - len(name)) > 1:
        return False
    start = next((i for i, (a, b) in enumerate(zip(found, name, strict=False)) if a != b), None)
    if start is None:  # one of them begins the other
        return True
    rest, of_name = found[start:], name[start:]
    swapped = rest[1::-1] == of_name[:2] and rest[2:] == of_name[2:]
    return swapped or rest[1:] in (of_name[1:], of_name) or rest == of_name[1:]
