"""Hostile `.cpd` files made from good ones, and the contract they must keep.

Plain byte fuzzing stops at magic and checksums; these mutants know the format: they repair what guards the door, so that the
checks and decoders behind it are reached.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
from xxhash import xxh3_64_intdigest

from .. import file as cpd
from ..container import ALIGN, TRAILER, Container, aligned, seal
from ..errors import CompandError
from ..limits import Limits

SMALL = Limits(allocation=16 << 20, decoded_bytes=16 << 20)
NUMBERS = (0, 1, 2, 3, 7, 63, 64, 65, 255, 256, 65_535, 65_537, 1 << 20, 1 << 24, (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 53) - 1, 1 << 53,
           (1 << 63) - 1, 1 << 63, 1 << 64, 10**30, -1, -(1 << 31), 0.5, 1e300)
WORDS = ("", "raw", "bytes", "bytes,lzma", "int:8", "center,int:4", "rotate,int:2", "uint8", "float64", "bool", "bfloat16", "0" * 16,
         "f" * 16, "a" * 3000, "x:y", "(((", "int:4+int:4", "\ud800", "../x", "ids", "scale", "0.ids", "1.ids")


def check_contract(data: bytes, limits: Limits = SMALL) -> str:
    """Do everything a reader can do with these bytes; returns "ok" or the name of the first error.

    Raises `AssertionError` if anything but a result or a `CompandError` comes out, or if a fault appears only on the
    second look.
    """
    try:
        file = cpd.open(data, limits=limits)
    except CompandError as e:
        return type(e).__name__
    first = ""
    with file:
        repr(file), file.names, file.meta, file.writer
        report = file.verify("full", keep_going=True)
        first = type(report.faults[0]).__name__ if report.faults else "ok"
        for name in file:
            for look in (lambda e: e.array(), lambda e: e.codes(), lambda e: e.array(slice(1, 3)), repr, lambda e: e.codec):
                try:
                    look(file[name])
                except CompandError as e:
                    assert first != "ok", f"{name}: verify found no fault, reading did: {e}"
    return first


def index_of(data: bytes) -> dict[str, Any]:
    """The index of a good file, unchecked."""
    at, size = TRAILER.unpack(data[-TRAILER.size:])[:2]
    return json.loads(data[at:at + size])


def with_index(data: bytes, index: dict[str, Any] | bytes) -> bytes:
    """A file with another index (an object, or JSON text), behind a checksum that is right."""
    at = TRAILER.unpack(data[-TRAILER.size:])[0]
    raw = index if isinstance(index, bytes) else json.dumps(index, separators=(",", ":")).encode()
    return data[:at] + seal(raw, at)


def with_chunks(data: bytes, chunks: list[bytes], index: dict[str, Any] | None = None) -> bytes:
    """A file with other chunks, their checksums right."""
    index = index or index_of(data)
    body = bytearray(data[:ALIGN])
    for chunk in chunks:
        body += bytes(aligned(len(body), len(chunk)) - len(body))
        body += chunk
    body += bytes(aligned(len(body)) - len(body))
    index["chunks"] = {"bytes": [len(c) for c in chunks], "xxh3": "".join(f"{xxh3_64_intdigest(c):016x}" for c in chunks)}
    raw = json.dumps(index, separators=(",", ":")).encode()
    return bytes(body) + seal(raw, len(body))


def chunks_of(data: bytes) -> list[bytes]:
    """The chunks of a good file."""
    c = Container(np.frombuffer(data, np.uint8), Limits())
    return [data[c.offset(i):c.ends[i + 1]] for i in range(len(c.sizes))]


def flips(data: bytes, start: int, stop: int) -> Iterator[bytes]:
    """Every single-bit flip of a range of bytes."""
    work = bytearray(data)
    for at in range(start, stop):
        for bit in range(8):
            work[at] ^= 1 << bit
            yield bytes(work)
            work[at] ^= 1 << bit


def mutants(data: bytes, seed: int, n: int) -> Iterator[tuple[str, bytes]]:
    """``n`` mutants of a good file, each with what was done to it. Checksums are repaired in most."""
    rng = random.Random(seed)
    chunks = chunks_of(data)
    makers = [_any_flip, _cut, _index_node, _index_node, _index_node, _index_text]
    if chunks:
        makers += [_chunk_bytes, _chunk_bytes, _chunk_bytes, _chunk_size, _chunk_order]
    for _ in range(n):
        make = rng.choice(makers)
        yield make.__name__[1:], make(data, chunks, rng)


def _any_flip(data, chunks, rng):
    work = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        work[rng.randrange(len(work))] ^= 1 << rng.randrange(8)
    return bytes(work)


def _cut(data, chunks, rng):
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return rng.choice((data[:a], data[a:], data[:a] + data[b:], data[:b] + data[a:], data + data[a:b], data + bytes(b - a)))


def _chunk_bytes(data, chunks, rng):
    i = rng.randrange(len(chunks))
    work = bytearray(chunks[i])
    for _ in range(rng.choice((1, 1, 2, 4, 16, 64)) if work else 0):
        at = rng.randrange(min(len(work), rng.choice((8, 64, 1 << 30))))
        kind = rng.randrange(4)
        if kind == 0:
            work[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            work[at] = rng.randrange(256)
        elif kind == 2:
            work[at] = rng.choice((0, 0x7F, 0x80, 0xFF))
        else:
            work[at:at + 4] = rng.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800000, 0xFFC00000)).to_bytes(4, "little")[:len(work) - at]
    return with_chunks(data, [*chunks[:i], bytes(work), *chunks[i + 1:]])


def _chunk_size(data, chunks, rng):
    i = rng.randrange(len(chunks))
    c = chunks[i]
    cut = rng.randrange(len(c) + 1)
    other = rng.choice((c[:cut], c[cut:], c + c[:cut], b"", c + bytes(rng.randrange(1, 70)), c * 2, bytes(len(c)), b"\xff" * len(c)))
    return with_chunks(data, [*chunks[:i], other, *chunks[i + 1:]])


def _chunk_order(data, chunks, rng):
    work = list(chunks)
    i, j = rng.randrange(len(work)), rng.randrange(len(work))
    kind = rng.randrange(3)
    if kind == 0:
        work[i], work[j] = work[j], work[i]
    elif kind == 1:
        work.insert(j, work[i])
    else:
        del work[i]
    return with_chunks(data, work)


def _nodes(value: Any, path: tuple = ()) -> Iterator[tuple]:
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from _nodes(value[key], (*path, key))


def _index_node(data, chunks, rng):
    index = index_of(data)
    nodes = [p for p in _nodes(index) if p]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        path = rng.choice(nodes)
        holder: Any = index
        try:
            for key in path[:-1]:
                holder = holder[key]
            _change(holder, path[-1], index, nodes, rng)
        except (LookupError, TypeError):
            continue  # an earlier change took this node away
    try:
        return with_index(data, index)
    except UnicodeEncodeError:
        return data


def _change(holder, key, index, nodes, rng):
    value, kind = holder[key], rng.randrange(8)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[rng.choice((*WORDS, "?x", "x", str(key) + "x"))] = holder.pop(key)
    elif kind == 2 and isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), value)
    elif kind == 3:
        other: Any = index
        for step in rng.choice(nodes):
            other = other[step]
        holder[key] = json.loads(json.dumps(other))
    elif type(value) is int and kind < 7:
        holder[key] = rng.choice((value + 1, value - 1, value * 2, value // 2, value + 64, *NUMBERS))
    elif type(value) is str and value and kind < 7:
        at = rng.randrange(len(value))
        holder[key] = rng.choice((value[:at], value[:at] + rng.choice("0123456789:,+()=xe.-az") + value[at + 1:],
                                  value[:at] + rng.choice(("9" * 9, ":", ",", "+")) + value[at:], *WORDS))
    else:
        holder[key] = rng.choice((*NUMBERS, *WORDS, None, True, [], {}, [[]], {"": {}}, [0] * 9, [1 << 30] * 4))


def _index_text(data, chunks, rng):
    at, size = TRAILER.unpack(data[-TRAILER.size:])[:2]
    raw = bytearray(data[at:at + size])
    for _ in range(rng.choice((1, 1, 2, 4))):
        i = rng.randrange(len(raw))
        kind = rng.randrange(4)
        if kind == 0:
            raw[i] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del raw[i:i + rng.choice((1, 1, 3, 20))]
        elif kind == 2:
            raw[i:i] = rng.choice((b"[", b"{", b'"', b"9" * 30, b"\\", b"[" * 9, b"1e999", b"NaN", b"\xff", b"\\ud800", b",", b":"))
        else:
            raw[i] = rng.choice(b'0123456789[]{}",:\\-eE. ')
        raw = raw or bytearray(b" ")
    return with_index(data, bytes(raw))
