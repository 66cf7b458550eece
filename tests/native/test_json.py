"""The quick look at an index agrees with the slow reader, and never accepts what that refuses."""

import json
import random

import numpy as np
import pytest

import compand
from compand import _native
from compand import index as js

GOOD = {"meta": {"writer": "compand 0.1.0", "x": [1, -2.5, True, None]}, "codecs": [{"spec": "raw"}],
        "entries": {f"layer.{i}/w x": {"shape": [i, 2], "dtype": "int8", "codec": 0, "rows": 1, "parts": {"values": [i]}}
                    for i in range(20)},
        "chunks": {"bytes": list(range(20)), "xxh3": "0" * 320}, "?note": 0.5}


def both(text: bytes):
    """What the slow reader makes of a text, None if it refuses; checks that the quick one does not differ."""
    raw = np.frombuffer(text, np.uint8)
    try:
        slow = js.loads(text, compand.Limits())
    except compand.CompandError:
        slow = None
    quick = _native.json_split(raw)
    if quick is None:
        return slow, False
    assert slow is not None, text
    index = js.split(raw, compand.Limits())
    index = {k: dict(v) if isinstance(v, js.Records) else v for k, v in index.items()}
    assert index == slow and list(index) == list(slow) and list(index.get("entries") or ()) == list(slow.get("entries") or ())
    return slow, True


def test_what_writers_make_is_cut():
    text = js.dumps(GOOD)
    assert both(text) == (GOOD, True)
    index = js.split(np.frombuffer(text, np.uint8), compand.Limits())
    assert index["entries"].plain and len(index["entries"]) == 20 and "layer.3/w x" in index["entries"] and 3 not in index["entries"]
    assert not js.split(np.frombuffer(js.dumps({"entries": {"/etc": {}}}), np.uint8), compand.Limits())["entries"].plain
    for empty in ({}, {"entries": {}, "chunks": {"bytes": [], "xxh3": ""}}, {"entries": [], "chunks": []}):
        assert both(js.dumps(empty)) == (empty, True)


@pytest.mark.parametrize("text", [
    b"", b"{", b"[]", b"1", b'"x"', b"{} ", b" {}", b'{"a":1,}', b'{"a":01}', b'{"a":-}', b'{"a":1.}', b'{"a":.5}', b'{"a":1e5}',
    b'{"a":+1}', b'{"a":1234567890123456}', b'{"a":"\\n"}', b'{"a":"\n"}', b'{"a":"\xc3\xa9"}', b'{"a":"\x7f"}', b'{"a":1,"a":2}',
    b'{"a":[[[[[[1]]]]]]}', b'{"a":tru}', b'{"a":NaN}', b'{"a":{"b":1,"b":2}}', b'{"a":1}{}', b'{"a" :1}',
    b'{"entries":{},"entries":{}}', b'{"a":"', b'{"a', b'{"a":[1,]}', b'{"a":"\\', b'{"entries":{"x":1',
    b'{"chunks":{"bytes":[1],"xxh3":"', b"\xef\xbb\xbf{}", b'{"a":1\x00}', b'{"a":--1}', b'{"\xff":1}',
])
def test_what_needs_judgement_is_left_to_the_slow_reader(text):
    assert not both(text)[1]


def test_chunk_tables_in_other_forms_are_parsed_in_full():
    for table in ({"xxh3": "", "bytes": []}, {"bytes": [1.5], "xxh3": ""}, {"bytes": [-1], "xxh3": ""}, {"bytes": [1], "xxh3": 5},
                  {"bytes": [1], "xxh3": "", "?x": 1}, {"bytes": ["1"], "xxh3": ""}, 7, [1]):
        assert both(js.dumps({"chunks": table})) == ({"chunks": table}, True)


def test_keys_that_are_there_twice_among_many():
    names = [f'"{i}":0' for i in range(5000)]
    assert both(("{" + ",".join(names) + "}").encode())[1]
    assert both(("{" + ",".join([*names, '"77":1']) + "}").encode()) == (None, False)
    assert both(("{" + ",".join(f'"{"x" * i}":0' for i in range(500)) + "}").encode())[1]


def test_too_many_containers_and_too_deep():
    assert both(b"[" * 10) == (None, False)
    assert both(b'{"a":' * 7 + b"1" + b"}" * 7) == (None, False)
    assert both(b'{"a":' * 6 + b"1" + b"}" * 6)[1]
    assert both(b'{"a":[' + b"[]," * (1 << 18) + b"0]}") == (None, False)


def test_mutants_are_never_judged_differently():
    rng, text = random.Random(0), js.dumps(GOOD | {"entries": dict(list(GOOD["entries"].items())[:3])})
    quick = 0
    for _ in range(4000):
        work = bytearray(text)
        for _ in range(rng.choice((1, 1, 2, 4))):
            at, kind = rng.randrange(len(work)), rng.randrange(4)
            if kind == 0:
                work[at] = rng.choice(b'0123456789[]{}",:\\-eE. \x00\xff')
            elif kind == 1:
                del work[at:at + rng.choice((1, 2, 9))]
            elif kind == 2:
                work[at:at] = work[rng.randrange(len(work)):][:rng.choice((1, 5, 40))]
            else:
                del work[at:]
                work = work or bytearray(b"{")
        quick += both(bytes(work))[1]
    assert quick > 100


def test_long_texts_stay_within_their_bytes():
    text = json.dumps({"a": "x" * 100_000}, separators=(",", ":")).encode()
    assert both(text)[1]
    for cut in (1, 2, 50_000):
        assert not both(text[:-cut])[1]
