"""What a file holds is told by its first bytes; its name must agree."""

from rlhf_core.data.encodings import wide_encoding
from rlhf_core.data.faults import Fault
from rlhf_core.data.shown_text import escaped

HEAD_BYTES = 4096
"""How much of a file's beginning tells what it is."""

TEXT, GZIP, ZSTD, PARQUET = "plain text", "gzip", "zstd", "Parquet"

DATA_SUFFIXES = (
    *(f"{kind}{packed}" for kind in (".jsonl", ".json", ".txt") for packed in ("", ".gz", ".zst")),
    ".parquet",
)

_TEXT_SUFFIXES = tuple(suffix for suffix in DATA_SUFFIXES if suffix.startswith(".txt"))

_PACKED_SUFFIXES = ((".gz", GZIP), (".zst", ZSTD), (".parquet", PARQUET))

_JSONL = "write its rows as JSONL, plain or packed by gzip or zstd, or as Parquet"

_OURS = {b"\x1f\x8b": GZIP, b"\x28\xb5\x2f\xfd": ZSTD, b"PAR1": PARQUET}

_OTHERS = {
    b"PK\x03\x04": ("a zip archive", "unpack it: `unzip FILE`"),
    **{b"BZh%d1AY&SY" % level: ("bzip2", "unpack it: `bunzip2 FILE`") for level in range(1, 10)},
    b"\xfd7zXZ": ("xz", "unpack it: `unxz FILE`"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "unpack it"),
    b"\x04\x22\x4d\x18": ("lz4", "unpack it: `unlz4 FILE`"),
    b"ARROW1\0\0": ("an Arrow (Feather) file", _JSONL),
    b"\xff\xff\xff\xff": ("an Arrow stream", _JSONL),
    b"Obj\x01": ("an Avro file", _JSONL),
    b"SQLite format 3": ("an SQLite database", _JSONL),
    b"\x89HDF": ("an HDF5 file", _JSONL),
    b"\x93NUMPY": ("a NumPy array", _JSONL),
    b"\x80\x04\x95": ("a pickle, which is never loaded", _JSONL),
    b"\x80\x05\x95": ("a pickle, which is never loaded", _JSONL),
    b"%PDF-": ("a PDF", _JSONL),
    b"version https://git-lfs": (
        "a pointer of Git LFS in place of the file",
        "fetch the file itself: `git lfs pull`",
    ),
}
"""First bytes that no text of any of our formats begins with."""

_PAGES = (b"<!DOCTYPE", b"<!doctype", b"<html", b"<HTML", b"<?xml")


def holds_text_lines(name: str) -> bool:
    """Whether the name says that a line is a row of text, not of JSON."""
    return name.lower().endswith(_TEXT_SUFFIXES)


def found_format(start: bytes) -> str:
    """Which of the formats that can be read the first bytes are; text where they are no other."""
    return next((name for magic, name in _OURS.items() if start.startswith(magic)), TEXT)


def named_format(name: str) -> str:
    """Which of them the name says."""
    lower = name.lower()
    return next((found for suffix, found in _PACKED_SUFFIXES if lower.endswith(suffix)), TEXT)


def format_fault(name: str, named_as: str, start: bytes) -> Fault | None:
    """Why a file that begins so cannot be read; None where it can.

    Messages speak of it as `name`; what kind of file it should be is told by `named_as`.
    """
    if not start:
        return Fault("DATA-001", name, 1, "", "the file is empty (0 bytes)")
    found, named = found_format(start), named_format(named_as)
    if found == TEXT:
        other = (
            _no_text(name, named_as, start) if named == TEXT else _other_kind(name, named_as, start)
        )
        if other is not None:
            return other
    if found != named:
        seen = (
            f"the file holds {found}, but is named as {named}: {_renaming(named_as, found, named)}"
        )
        return Fault("DATA-002", name, 1, "", seen)
    return None


def unpacked_fault(name: str, named_as: str, start: bytes) -> Fault | None:
    """Why the text that a packed file was unpacked to is none; None where it is."""
    if not start:
        return Fault("DATA-001", name, 1, "", "the file is empty (0 bytes) once unpacked")
    found = found_format(start)
    if found != TEXT:
        seen = f"the packed file holds {found} again: unpack it once and keep what comes out"
        return Fault("DATA-002", name, 1, "", seen)
    if start[257:262] == b"ustar":
        seen = "the packed file holds a tar archive: unpack it, `tar -xf FILE`, and name its files"
        return Fault("DATA-002", name, 1, "", seen)
    return _no_text(name, named_as, start)


def _no_text(name: str, named_as: str, start: bytes) -> Fault | None:
    return _other_kind(name, named_as, start) or _other_encoding(name, start)


def _other_kind(name: str, named_as: str, start: bytes) -> Fault | None:
    for magic, (what, mend) in _OTHERS.items():
        if start.startswith(magic):
            seen = f"the file is {what}, expected JSONL or Parquet: {mend}"
            return Fault("DATA-002", name, 1, "", seen)
    if start.startswith(_PAGES) and not holds_text_lines(named_as):
        seen = (
            f"the file begins with {escaped(start[:20].decode('ascii', 'replace'))} and is a web "
            "page or XML, expected JSONL or Parquet: download the file itself"
        )
        return Fault("DATA-002", name, 1, "", seen)
    return None


def _other_encoding(name: str, start: bytes) -> Fault | None:
    wide = wide_encoding(start)
    if wide is not None:
        zero_or_mark = next(
            place for place, byte in enumerate(start) if byte == 0 or byte in (0xFE, 0xFF)
        )
        seen = (
            f"byte 0x{start[zero_or_mark]:02x} at offset {zero_or_mark} of the file; it is "
            f"{wide.name}, expected UTF-8: {wide.mend}"
        )
        return Fault("ENC-001", name, 1, "", seen)
    if not start.strip(b"\0"):
        seen = f"the file begins with {len(start):,} zero bytes: its writing was cut short"
        return Fault("DATA-003", name, 1, "", seen)
    return None


def _renaming(name: str, found: str, named: str) -> str:
    """The name that would be right, where one is plain to see; else what to do."""
    suffix_of = {fmt: suffix for suffix, fmt in _PACKED_SUFFIXES}
    stem = name.rsplit("/", 1)[-1]
    if named != TEXT:
        stem = stem[: -len(suffix_of[named])]
    if found == PARQUET:
        stem = stem.removesuffix(".gz").removesuffix(".zst")
        stem = stem.removesuffix(".jsonl").removesuffix(".json").removesuffix(".txt")
    elif named == PARQUET:
        stem += ".jsonl"
    return f"rename it to {escaped(stem + suffix_of.get(found, ''))}"
