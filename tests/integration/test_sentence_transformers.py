import numpy as np
import pytest

import compand
from compand.integration.sentence_transformers import quantize_embeddings


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((500, 24), dtype=np.float32)


def test_words_give_what_sentence_transformers_gives(x):
    low, high = x.min(0), x.max(0)
    steps = (high - low) / 255
    assert np.array_equal(quantize_embeddings(x, "uint8"), np.clip((x - low) / steps, 0, 255).astype(np.uint8))
    assert np.array_equal(quantize_embeddings(x, "int8"), (np.clip(np.floor((x - low) / steps), 0, 255) - 128).astype(np.int8))
    packed = np.packbits(x > 0).reshape(500, -1)
    assert np.array_equal(quantize_embeddings(x, "ubinary"), packed)
    assert np.array_equal(quantize_embeddings(x, "binary"), (packed.astype(np.int16) - 128).astype(np.int8))
    assert quantize_embeddings(x.astype(np.float64), "float32").dtype == np.float32
    assert np.array_equal(quantize_embeddings(list(x), "ubinary"), packed)


def test_ranges_come_from_elsewhere_and_nothing_wraps(x):
    ranges = np.stack([x.min(0), x.max(0)])
    one = quantize_embeddings(x[:1] * 10, "int8", ranges=ranges)
    assert ((one == 127) == (x[:1] * 10 >= ranges[1])).all()
    assert np.array_equal(quantize_embeddings(x[:1], "int8", calibration_embeddings=x), quantize_embeddings(x, "int8")[:1])


@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])
def test_every_word_equals_the_installed_sentence_transformers(x, precision):
    theirs = pytest.importorskip("sentence_transformers").quantize_embeddings
    import torch

    constant = x.copy()
    constant[:, 3] = 0.25  # a column without range
    ranges = np.stack([x.min(0), x.max(0)]) / 2
    for a in (x, constant, x[:, :13], x.astype(np.float64), list(x), torch.from_numpy(x)):
        assert np.array_equal(quantize_embeddings(a, precision), theirs(a, precision))
    assert np.array_equal(quantize_embeddings(x[:1], precision, ranges), theirs(x[:1], precision, ranges))
    learnt = {"calibration_embeddings": x}
    assert np.array_equal(quantize_embeddings(x[:1], precision, **learnt), theirs(x[:1], precision, **learnt))
    documents = [x[:7], x[7:7], x[7:40]]
    for ours, own in zip(quantize_embeddings(documents, precision), theirs(documents, precision), strict=True):
        assert ours.dtype == own.dtype and np.array_equal(ours, own)
    assert quantize_embeddings([], precision) == theirs([], precision) == []


def test_the_signature_is_theirs():
    from inspect import signature

    theirs = pytest.importorskip("sentence_transformers").quantize_embeddings
    own, other = signature(quantize_embeddings).parameters, signature(theirs).parameters
    assert [(p.name, p.default, p.kind) for p in own.values()] == [(p.name, p.default, p.kind) for p in other.values()]


def test_multi_vector_documents_share_one_codec(x):
    documents = quantize_embeddings([x[:7], x[7:7], x[7:]], "klt,grouped:12")
    assert [len(c.codec.decode(c)) for c in documents] == [7, 0, 493]
    assert documents[0].codec == documents[2].codec


def test_any_spec_is_a_precision(x):
    codes = quantize_embeddings(x, "klt,grouped:12")
    assert compand.search(x[:5], codes, 1, metric="cosine")[1].ravel().tolist() == [0, 1, 2, 3, 4]
    again = quantize_embeddings(x[:2], codes.codec)
    assert np.array_equal(again.symbols("1.ids"), codes.symbols("1.ids")[:2])


def test_errors(x):
    for bad in [lambda: quantize_embeddings(x[:1], "int8"), lambda: quantize_embeddings(x * np.nan, "int8"),
                lambda: quantize_embeddings(x, "int8", ranges=np.zeros((2, 3))), lambda: quantize_embeddings(x[0], "int8"),
                lambda: quantize_embeddings(x, "int9"), lambda: quantize_embeddings(x.astype(np.int8), "int8")]:
        with pytest.raises(compand.CompandError):
            bad()


def test_it_is_compand_quantize_embeddings(x):
    assert compand.quantize_embeddings is quantize_embeddings


def test_an_unknown_word_names_the_known_ones(x):
    with pytest.raises(compand.UnsupportedError, match="float32, int8, uint8, binary, ubinary, or a spec"):
        quantize_embeddings(x, "nonsense")
    assert {"search", "Index", "quantize_embeddings", "matmul"} <= set(dir(compand))
