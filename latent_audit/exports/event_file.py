"""TensorBoard's event file, written without TensorBoard: scalars and texts as protocol buffers in framed records.

Formats: tensorflow/core/util/event.proto and framework/summary.proto for the messages; TFRecord around each: its length
and itself, each with a masked CRC-32C. No library is asked: those at hand import a deep-learning framework.
"""

import struct
from collections.abc import Iterable

VERSION = "brain.Event:2"
_STRING, _MASK = 7, 0xA282EAD8  # DT_STRING of types.proto; the constant of the masked checksum
_POLYNOMIAL = 0x82F63B78  # CRC-32C, reflected


def _crc_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
    return byte


_CRCS = tuple(map(_crc_of_byte, range(256)))


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli).

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRCS[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def record(data: bytes) -> bytes:
    """One record of a TFRecord file."""
    length = struct.pack("<Q", len(data))
    return length + _masked(length) + data + _masked(data)


def file_of(scalars: Iterable[tuple[str, int, float]], texts: Iterable[tuple[str, str]], *, when: float) -> bytes:
    """A whole event file: (tag, step, value) as float32, and (tag, text) at step 0; when: seconds since the epoch."""
    events = [_event(when, 0, _field(3, VERSION.encode()))]
    events += [_event(when, step, _field(5, _field(1, _scalar(tag, value)))) for tag, step, value in scalars]
    events += [_event(when, 0, _field(5, _field(1, _text(tag, told)))) for tag, told in texts]
    return b"".join(map(record, events))


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF)


def _event(when: float, step: int, what: bytes) -> bytes:
    return b"\x09" + struct.pack("<d", when) + b"\x10" + _varint(step) + what


def _scalar(tag: str, value: float) -> bytes:
    return _field(1, tag.encode()) + b"\x15" + struct.pack("<f", value)


def _text(tag: str, told: str) -> bytes:
    """A value whose tensor is one string, for the plugin `text`."""
    plugin = _field(9, _field(1, _field(1, b"text")))
    shape = _field(2, _field(2, b"\x08\x01"))
    return _field(1, tag.encode()) + _field(8, b"\x08" + _varint(_STRING) + shape + _field(8, told.encode())) + plugin


def _field(number: int, data: bytes) -> bytes:
    """A field whose value has a length: text, bytes or a message."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    """A whole number of at least 0, seven bits a byte, the lowest first."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
