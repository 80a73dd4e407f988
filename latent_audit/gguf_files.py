"""What the header of a GGUF file says: its metadata, and where each tensor lies; no tensor is read.

The format is ggml's (github.com/ggml-org/ggml, its page on GGUF; versions 2 and 3). Read here instead of by
gguf.GGUFReader, which takes seconds for a vocabulary and believes every count: a damaged file is one line of an
InputError.
"""

import functools
import math
import mmap
import os
import pathlib
import re
import struct
from typing import Any, NamedTuple

from latent_audit.errors import InputError
from latent_audit.user_files import check_file

SUFFIX = ".gguf"
_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_MOST_BYTES = 2**42
# Far beyond every published file: Gemma 3 has 514906 merges, and its template some thousand characters.
_MOST_ENTRIES, _MOST_TEXT, _MOST_DIMENSIONS = 2**24, 2**22, 4
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
# ggml's type number -> (name, numbers in a block, bytes of a block).
TYPES = {
    **{0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2)},
    **{2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34)},
    **{10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176)},
    **{14: ("Q6_K", 256, 210), 20: ("IQ4_NL", 32, 18), 23: ("IQ4_XS", 256, 136)},
}
# The same by name: (numbers in a block, bytes of a block).
BLOCKS = {kind: (numbers, size) for kind, numbers, size in TYPES.values()}
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


class Tensor(NamedTuple):
    """shape: slowest axis first, as in NumPy; kind: a name of TYPES; start: its first byte in the file."""

    shape: tuple[int, ...]
    kind: str
    start: int


class Gguf(NamedTuple):
    """metadata: key -> number, text or list; tensors: name in the file -> Tensor."""

    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


def is_gguf(path: str | pathlib.Path) -> bool:
    """Whether a path names a GGUF file, by its suffix."""
    return str(path).lower().endswith(SUFFIX)


def check(path: str | pathlib.Path) -> pathlib.Path:
    """The path of a regular file, ~ expanded; InputError for anything else, a git-lfs pointer among it."""
    return check_file("the GGUF file", path, most=_MOST_BYTES)


def read(path: str | pathlib.Path) -> Gguf:
    """The header of a GGUF file, kept for the rest of the process.

    Raises InputError: no regular file, a git-lfs pointer, not a GGUF, one part of a split file, a version, byte order
    or tensor type that is not read, or a file that ends before its tensors do.
    """
    path = check(path)
    status = os.stat(path)
    return _read(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read(path: pathlib.Path, size: int, changed: int) -> Gguf:
    """size and changed: of the file as it is remembered."""
    if size < 24:
        raise InputError(f"{path} has {size} bytes and is no GGUF file; fetch it again")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != _MAGIC:
            raise InputError(f"{path} begins with {data[:4]!r}, expected b'GGUF': it is no GGUF file; fetch it again")
        version, tensors, entries = struct.unpack_from("<IQQ", data, 4)
        if version not in _VERSIONS:
            raise InputError(
                f"{path} is GGUF version {version}, expected 2 or 3, little-endian; convert it anew with llama.cpp"
            )
        try:
            return _header(path, data, tensors, entries)
        except (struct.error, _EndsEarlyError) as error:
            raise _cut(path, size, "its header goes on") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is damaged: its header holds text that is not UTF-8; fetch it again") from error


class _EndsEarlyError(Exception):
    """The file is shorter than its header says."""


def _header(path: pathlib.Path, data: mmap.mmap, tensors: int, entries: int) -> Gguf:
    if max(tensors, entries) > _MOST_ENTRIES:
        raise InputError(f"{path} is damaged: it counts {tensors} tensors and {entries} entries; fetch it again")
    place, metadata = 24, {}
    for _ in range(entries):
        key, place = _text(data, place)
        (kind,) = struct.unpack_from("<I", data, place)
        metadata[key], place = _value(path, key, data, place + 4, kind)
    if _SPLIT.search(path.name) or metadata.get("split.count", 0) not in (0, 1):
        raise InputError(
            f"{path} is one part of a split GGUF; join them first: llama-gguf-split --merge FIRST_PART.gguf WHOLE.gguf"
        )
    return Gguf(metadata, _tensors(path, data, place, tensors, metadata.get("general.alignment", 32)))


def _value(path: pathlib.Path, key: str, data: mmap.mmap, place: int, kind: int) -> tuple[Any, int]:
    """One value of the metadata and the place behind it."""
    if kind in _NUMBERS:
        form = "<" + _NUMBERS[kind]
        return struct.unpack_from(form, data, place)[0], place + struct.calcsize(form)
    if kind == _TEXT:
        return _text(data, place)
    if kind != _ARRAY:
        raise InputError(f"{path} is damaged: {key!r:.100} has the unknown type {kind}; fetch it again")
    inner, count = struct.unpack_from("<IQ", data, place)
    place += 12
    if count > _MOST_ENTRIES:
        raise InputError(f"{path} is damaged: {key!r:.100} counts {count} entries; fetch it again")
    if inner in _NUMBERS:
        form = f"<{count}{_NUMBERS[inner]}"
        return list(struct.unpack_from(form, data, place)), place + struct.calcsize(form)
    if inner != _TEXT:
        raise InputError(f"{path} is damaged: {key!r:.100} is a list of the type {inner}; fetch it again")
    texts = []
    for _ in range(count):
        text, place = _text(data, place)
        texts.append(text)
    return texts, place


def _text(data: mmap.mmap, place: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, place)
    place += 8
    if length > _MOST_TEXT or place + length > len(data):
        raise _EndsEarlyError
    return data[place : place + length].decode("utf-8"), place + length


def _tensors(path: pathlib.Path, data: mmap.mmap, place: int, count: int, alignment: object) -> dict[str, Tensor]:
    """The table of tensors, each held against the file's size."""
    if not (isinstance(alignment, int) and 8 <= alignment <= 2**20 and alignment % 8 == 0):
        raise InputError(f"{path} is damaged: general.alignment = {alignment!r:.50}; fetch it again")
    table = []
    for _ in range(count):
        name, place = _text(data, place)
        (dimensions,) = struct.unpack_from("<I", data, place)
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise InputError(f"{path} is damaged: {name!r:.100} has {dimensions} dimensions; fetch it again")
        *sides, number, offset = struct.unpack_from(f"<{dimensions}QIQ", data, place + 4)
        place += 16 + 8 * dimensions
        if number not in TYPES:
            known = ", ".join(kind for kind, _, _ in TYPES.values())
            raise InputError(
                f"{path}: {name!r:.100} is of ggml type {number}, which is not read; read are {known}: take another "
                "quantisation of this model"
            )
        table.append((name, tuple(reversed(sides)), number, offset))
    begin, found = -(-place // alignment) * alignment, {}
    for name, shape, number, offset in table:
        kind, numbers, size = TYPES[number]
        if shape[-1] % numbers or not math.prod(shape):
            raise InputError(f"{path} is damaged: {name!r:.100} is {list(shape)!s:.100} of {kind}; fetch it again")
        end = begin + offset + math.prod(shape) // numbers * size
        if end > len(data):
            raise _cut(path, len(data), f"{name!r:.100} ends at byte {end}")
        found[name] = Tensor(shape, kind, begin + offset)
    return found


def _cut(path: pathlib.Path, size: int, what: str) -> InputError:
    return InputError(f"{path} is cut short: it has {size} bytes, but {what}; fetch it again")
