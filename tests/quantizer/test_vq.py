import numpy as np
import pytest
from through import through

import compand
from compand.quantizer import codebook
from compand.quantizer.pq import PQ
from compand.quantizer.vq import VQ
from compand.stage import Form

torch = pytest.importorskip("torch")
SPECS = "vq:16 vq:30:dim=8 vq:1 vq:5:dim=7:codewords=float16 pq:4x4 pq:7x3 pq:20x1:codewords=bfloat16 vq:300:dim=1".split()


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((300, 20), dtype=np.float32)


def error(q, x):
    return float(((x - through(q, x)[0]) ** 2).mean())


@pytest.mark.parametrize("spec", SPECS)
def test_corner_cases_and_torch(x, spec):
    q = compand.parse(spec)
    assert str(q) == spec
    for factor in (1, 0, 1e30, 1e-30):
        z = x * np.float32(factor)
        fitted = q.fit(z)
        y, parts = through(fitted, z)
        if q.codewords != "float16" or factor <= 1:
            assert np.isfinite(y).all() and np.linalg.norm(y - z.astype(float)) <= 1.01 * np.linalg.norm(z.astype(float))
            t = fitted.encode(torch.from_numpy(z))
            assert factor == 0 or (t["ids"].numpy() == parts["ids"]).all()  # equal codewords: any of them
            np.testing.assert_array_equal(fitted.decode(t, Form(*x.shape)).numpy(), y)
    assert through(q.fit(x[:3]), x[:3].astype(np.float64))[0].dtype == np.float64  # fewer rows than codewords


def test_ids_are_the_nearest(x):
    for k in (1, 2, 17, 299):
        words = np.ascontiguousarray(x[:k])
        ids = codebook.nearest(x, words)
        far = ((x[:, None].astype(np.float64) - words) ** 2).sum(2)
        np.testing.assert_array_equal(ids, far.argmin(1))
        np.testing.assert_array_equal(codebook.nearest(torch.from_numpy(x), words).numpy(), ids)
    words = np.concatenate([x[:9], x[:9]])
    assert codebook.nearest(x[:9], words).tolist() == list(range(9))  # ties to the lowest id


def test_more_codewords_than_fit_one_pass():
    rng = np.random.default_rng(0)
    words = rng.standard_normal((20000, 2), dtype=np.float32)
    q = VQ(1 << 20, dim=2)
    q = compand.stage.replace(q, k=20000, codebook_=words)
    x = words[rng.permutation(20000)[:1000]]
    y, parts = through(q, x)
    np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(q.encode(torch.from_numpy(x))["ids"].numpy(), parts["ids"])


@pytest.mark.parametrize("k", [2, 3, 255, 257, 65536, 65537, (1 << 20), (1 << 32) - 5, 1 << 32])
def test_ids_of_any_alphabet_survive_packing(k):
    ids = np.random.default_rng(0).integers(0, k, (7, 33), dtype=np.uint64).astype(compand.symbols.id_dtype(k))
    ids[0, 0], ids[6, 32] = 0, k - 1
    np.testing.assert_array_equal(compand.symbols.unpack(compand.symbols.pack(ids, k), 33, k), ids)


def test_fit_lowers_the_error_and_follows_weights(x):
    sampled = compand.stage.replace(VQ(16), codebook_=x[:16])
    assert error(VQ(16).fit(x), x) < 0.9 * error(sampled, x)
    weight = np.where(np.arange(300) < 30, 50, 1).astype(np.float32)[:, None]
    first = [float(((x - through(q, x)[0]) ** 2)[:30].mean()) for q in (VQ(16).fit(x), VQ(16).fit(x, weight=weight))]
    assert first[1] < first[0]
    assert (VQ(16).fit(x) == VQ(16).fit(x)) and error(PQ((20, 3)).fit(x, weight=weight), x) < 0.1


def test_residual_sums_get_better(x):
    for term in ("vq:16", "pq:5x3"):
        sum_ = compand.parse("+".join([term] * 3)).fit(x)
        parts = sum_.encode(x)
        errors = [((x - sum_.decode(parts, Form(*x.shape), terms)) ** 2).mean() for terms in (1, 2, 3)]
        assert errors[0] > errors[1] > errors[2]


def test_pq_beats_int_on_embeddings_at_equal_bits(embeddings):
    x = embeddings[:, :96]
    int1 = compand.parse("int:1").fit(x)
    assert error(PQ((12, 8)).fit(x), x) < 0.8 * error(int1, x)
    assert error(VQ(256, dim=8).fit(x), x) < 0.9 * error(int1, x)


@pytest.mark.parametrize("spec", ["vq:0", "vq:1048577", "pq:4", "pq:4x17", "pq:0x4", "pq:70000x4", "pq:4x4x4", "vq:4:dim=0"])
def test_refused(spec):
    with pytest.raises(compand.SpecError):
        compand.parse(spec)


def test_too_many_parts(x):
    with pytest.raises(compand.SpecError, match="try pq:20x4"):
        PQ((21, 4)).fit(x)


@pytest.mark.parametrize("spec", ["vq:32:dim=4", "pq:2x5"])
def test_balanced_codewords_are_used_about_equally(spec):
    rng = np.random.default_rng(4)
    x = (rng.standard_normal((1500, 8)) * rng.lognormal(0, 1.5, (1500, 1))).astype(np.float32)  # many near zero, few far away
    ends = []
    for balanced in ("", ":balanced=true"):
        codec = compand.Codec(spec + balanced).fit(x)
        counts = np.bincount(codec.encode(x).symbols("ids")[:, 0], minlength=32)
        ends.append(float(counts.max() / counts.mean()))
    assert ends[1] < 0.6 * ends[0]
    assert str(compand.parse(spec + ":balanced=true")) == spec + ":balanced=true"
