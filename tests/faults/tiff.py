"""Write a TIFF in any of the ways that other programs do, tag by tag."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

NONE, LZW, DEFLATE, OLD_DEFLATE, PACKBITS = 1, 5, 8, 32946, 32773
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
_TYPES = {2: "B", 3: "H", 4: "I", 16: "Q"}
_SHORT, _LONG, _LONG8 = 3, 4, 16
Tags = dict[int, tuple[int, list[int]]]  # code -> type, values


@dataclass(frozen=True)
class Way:
    """How a program saves a picture.

    Attributes:
        bits: of each number, 1, 2, 4, 8 or 16.
        rows: of a strip; all of them if 0.
        tile: edge of a tile; strips if 0.
        separate: a plane for each colour.
        fill: 2 if the lowest bit of a byte is the first pixel.
        tags_last: pixels first, as libtiff writes.
        backwards: the last strip or tile comes first.
        after: bytes behind all that a reader needs.
        unsorted: tags in the reverse order of their numbers.
        extra: further tags.
    """

    order: str = "<"
    big: bool = False
    bits: int = 8
    colours: int = BLACK_IS_ZERO
    compression: int = NONE
    predictor: int = 1
    rows: int = 0
    tile: int = 0
    separate: bool = False
    fill: int = 1
    tags_last: bool = False
    backwards: bool = False
    after: bytes = b""
    unsorted: bool = False
    extra: Tags = field(default_factory=dict)


def save(path: Path, picture: np.ndarray, way: Way) -> None:
    """Write numbers ``(H, W)`` or ``(H, W, C)`` of ``way.bits`` bits."""
    height, width, *more = picture.shape
    channels = more[0] if more else 1
    chunks = [_encoded(chunk, way) for chunk in _chunks(picture, way)]
    places = (324, 325) if way.tile else (273, 279)
    tags: Tags = {
        256: (_SHORT if way.backwards else _LONG, [width]),
        257: (_SHORT if way.backwards else _LONG, [height]),
        258: (_SHORT, [way.bits] * channels),
        259: (_SHORT, [way.compression]),
        262: (_SHORT, [way.colours]),
        277: (_SHORT, [channels]),
        284: (_SHORT, [2 if way.separate else 1]),
        places[1]: (_LONG, [len(chunk) for chunk in chunks]),
        **way.extra,
    }
    if way.fill != 1:
        tags[266] = (_SHORT, [way.fill])
    if way.predictor != 1:
        tags[317] = (_SHORT, [way.predictor])
    if way.tile:
        tags |= {322: (_SHORT, [way.tile]), 323: (_SHORT, [way.tile])}
    else:
        tags[278] = (_LONG, [way.rows or height])
    header = 16 if way.big else 8
    start = header + (
        0 if way.tags_last else len(_directory(tags, places[0], [0] * len(chunks), way, 0))
    )
    order = range(len(chunks))[:: -1 if way.backwards else 1]
    offsets, end = [0] * len(chunks), start
    for number in order:
        offsets[number], end = end, end + len(chunks[number])
    at = end + end % 2 if way.tags_last else header
    directory = _directory(tags, places[0], offsets, way, at)
    pixels = b"".join(chunks[number] for number in order)
    body = pixels + bytes(end % 2) + directory if way.tags_last else directory + pixels
    path.write_bytes(_header(at, way) + body + way.after)


def _header(at: int, way: Way) -> bytes:
    name = b"II" if way.order == "<" else b"MM"
    if way.big:
        return name + struct.pack(f"{way.order}HHHQ", 43, 8, 0, at)
    return name + struct.pack(f"{way.order}HI", 42, at)


def _directory(tags: Tags, where: int, offsets: list[int], way: Way, at: int) -> bytes:
    """Return the tags, and behind them the values that have no room in them."""
    tags = {**tags, where: (_LONG8 if way.big else _LONG, offsets)}
    count, pointer, room = ("Q", "Q", 8) if way.big else ("H", "I", 4)
    amount = "Q" if way.big else "I"
    size = struct.calcsize(f"<{count}") + len(tags) * (4 + 2 * room) + room
    entries, values = b"", b""
    for code, (kind, numbers) in sorted(tags.items(), reverse=way.unsorted):
        content = struct.pack(f"{way.order}{len(numbers)}{_TYPES[kind]}", *numbers)
        if len(content) > room:
            place = struct.pack(f"{way.order}{pointer}", at + size + len(values))
            values += content + bytes(len(content) % 2)
        else:
            place = content.ljust(room, b"\0")
        entries += struct.pack(f"{way.order}HH{amount}", code, kind, len(numbers)) + place
    return struct.pack(f"{way.order}{count}", len(tags)) + entries + bytes(room) + values


def _chunks(picture: np.ndarray, way: Way) -> Iterator[np.ndarray]:
    """Yield the strips or tiles, ``(rows, columns, channels)``."""
    planes = picture[..., None] if picture.ndim == 2 else picture
    for plane in np.split(planes, planes.shape[2], 2) if way.separate else [planes]:
        height, width = plane.shape[:2]
        if way.tile:
            padded = np.pad(plane, ((0, -height % way.tile), (0, -width % way.tile), (0, 0)))
            for y in range(0, height, way.tile):
                for x in range(0, width, way.tile):
                    yield padded[y : y + way.tile, x : x + way.tile]
        else:
            rows = way.rows or height
            for y in range(0, height, rows):
                yield plane[y : y + rows]


def _encoded(chunk: np.ndarray, way: Way) -> bytes:
    if way.predictor == 2:
        chunk = np.diff(chunk, axis=1, prepend=chunk[:, :1] * 0)
    numbers = chunk.reshape(len(chunk), -1)
    if way.bits >= 8:
        content = numbers.astype(f"{way.order}u{way.bits // 8}").tobytes()
    else:
        bits = np.unpackbits(numbers.astype(np.uint8)[..., None], axis=2)[..., -way.bits :]
        content = np.packbits(bits.reshape(len(chunk), -1), axis=1).tobytes()
    if way.compression in (DEFLATE, OLD_DEFLATE):
        content = zlib.compress(content)
    elif way.compression == PACKBITS:
        row = len(content) // len(chunk)
        content = b"".join(_packed(content[i : i + row]) for i in range(0, len(content), row))
    elif way.compression == LZW:
        content = _lzw(content)
    if way.fill == 2:
        bits = np.unpackbits(np.frombuffer(content, np.uint8)[:, None], axis=1)
        content = np.packbits(bits[:, ::-1], axis=1).tobytes()
    return content


def _packed(row: bytes) -> bytes:
    """Return a row as PackBits: runs of one byte, and other bytes by themselves."""
    packed, at = b"", 0
    while at < len(row):
        run = 1
        while run < 128 and at + run < len(row) and row[at + run] == row[at]:
            run += 1
        packed += bytes([257 - run if run > 1 else 0, row[at]])
        at += run
    return packed


def _lzw(content: bytes) -> bytes:
    """Return bytes as LZW that begins anew before its codes get longer than 9 bits."""
    codes = []
    for start in range(0, len(content), 250):
        codes += [256, *content[start : start + 250]]
    numbers = np.array([*codes, 257], ">u2")
    bits = np.unpackbits(numbers.view(np.uint8).reshape(-1, 2), axis=1)[:, -9:]
    return np.packbits(bits.reshape(-1)).tobytes()
