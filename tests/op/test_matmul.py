"""`compand.matmul`: the same numbers on every instruction set, exact integers, and every spec."""

import numpy as np
import pytest

import compand
from compand import _native
from compand.codes import Block
from compand.errors import CompandError, InputError
from compand.op.matmul import matmul, matmul_reference, matrix, rounded
from compand.symbols import pack

LEVELS = [level for level in ("scalar", "avx2", "avx512") if _native.set_isa(level)]
_native.set_isa("auto")
LEAVES = [
    *(f"int:{b}" for b in range(1, 9)), "int:4:group=64", "int:3:group=16", "int:5:group=32", "int:4:group=128:sym=false",
    "int:8:sym=false", "int:2:mid=true:group=32", "int:8:mid=true", "int:4:pow2=true", "int:6:step=0.1", "int:4:per=column",
    "int:4:per=tensor", "table:nf4:group=64", "table:16", "table:10:group=32", "table:256", "table:gauss3", "float:e2m1:scale=mx",
    "float:e2m1:scale=nvfp4", "float:e2m3", "float:e3m2:group=64", "sign", "sign:64", "ternary", "ternary:32",
    "int:4:group=64:scales=float32", "int:4:scales=float16", "trellis:1:memory=12", "trellis:2:memory=12", "trellis:3:memory=12",
    "trellis:4:memory=12", "trellis:2:factors=2:memory=12", "trellis:3:group=64:memory=12", "trellis:4:group=16:factors=2:memory=12"]
WORDS = [
    "float:e4m3", "float:e5m2:group=48", "float:e4m3:scale=tensor", "float:e7m0", "vq:16:dim=8", "vq:100:dim=3", "vq:8", "pq:8x4", "pq:7x8",
    "pq:4x12", "lattice:e8", "lattice:e8:bits=1:group=24", "sign:complex=true:group=10", "int:4:group=10", "int:12",
    "table:nf4:group=48", "vq:16:dim=4+vq:16:dim=4", "hadamard,lattice:e8"]
LATTICES = ["lattice:e8:bits=3", "lattice:e8:bits=4:group=16", "lattice:e8:bits=7"]
MOVED = [
    "hadamard,int:4:group=64", "hadamard:odd=pad,trellis:3:memory=12", "hadamard:block=64:odd=overlap,int:8", "permute,int:4:group=32",
    "rotate,int:6", "center,int:4", "scale:rms:column,int:4", "scale:rms:row,int:4", "center,scale:norm:row,hadamard,int:8",
    "pca:16,int:8", "int:3:group=64+int:3:group=64", "sparse:0.02+int:3:group=64", "lowrank:4+int:4:group=64",
    "(hadamard,trellis:2:memory=12)+int:4", "sign:64+sign:64", "int:4:group=64,rans", "vq:16:dim=4+int:4",
    "hadamard,int:3:group=64,rans", "(hadamard,trellis:3:memory=12)+salient:0.3:4", "int:3:group=64+salient:0.5:2+salient:0.1:5"]
OTHERS = [
    "planes,rans", "compand,int:6", "int:4:group=10:sym=false", "int:4:noise=1", "lattice:e8:bits=8", "scale:rms:row:group=8,int:4"]


def coded(spec, n, d, seed=0):
    w = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    w *= np.linspace(0.5, 2, n, dtype=np.float32)[:, None]
    return compand.Codec(spec).fit(w).encode(w)


def same(a, b):
    return np.array_equal(a.view(np.uint32), b.view(np.uint32))


def block_of(spec):
    if not spec.startswith("trellis"):
        return 64
    return {"trellis:3:group=64:memory=12": 64, "trellis:4:group=16:factors=2:memory=12": 16}.get(spec, 128)


@pytest.mark.parametrize("spec", LEAVES)
def test_kernels_agree_with_numpy_and_each_other(spec):
    rng = np.random.default_rng(1)
    for n, d, m in ((33, 200, 5), (16, 64, 1), (7, 31, 2), (50, 257, 18), (17, 1, 1), (1, 130, 3)):
        if spec == "table:256" and n * d < 256:
            continue
        codes, x = coded(spec, n, d), rng.standard_normal((m, d)).astype(np.float32)
        column = codes.codec.stage.name == "int" and codes.codec.stage.per == "column"
        used = x * codes.codec.stage.scale_ if column else x
        w = codes.codec.decode(codes).astype(np.float64) / (codes.codec.stage.scale_ if column else 1)
        exact = rounded(used, block_of(spec)).astype(np.float64) @ w.T
        room = np.abs(used).sum(1, keepdims=True) * (np.abs(w).max() * 2.0 ** -14) + 1e-6
        found = []
        for level in LEVELS:
            _native.set_isa(level)
            y = matmul(x, codes)
            assert y.dtype == np.float32 and y.shape == (m, n)
            assert (np.abs(y - exact) <= room).all(), (level, n, d, m)
            found.append(y)
        _native.set_threads(1)
        found.append(matmul(x, codes))
        _native.set_threads(0)
        found.append(np.concatenate([matmul(x[i:i + 1], codes) for i in range(m)]))
        assert all(same(found[0], y) for y in found[1:]), (n, d, m)


@pytest.mark.parametrize("spec", [*LEAVES, "hadamard,int:4:group=64", "int:4+int:4:group=16"])
def test_a_copy_gives_the_same(spec):
    rng = np.random.default_rng(14)
    for n, d in ((33, 200), (16, 64), (7, 31), (50, 257), (17, 1), (1, 130), (270, 385)):
        codes = coded(spec, n, d)
        other, x = compand.Codes(codes.codec, codes.shape, codes.dtype, codes.blocks), rng.standard_normal((5, d)).astype(np.float32)
        for m in (1, 3, 5):
            expected = matrix(codes)(x[:m])
            for level in LEVELS:
                _native.set_isa("auto")
                for _ in range(2):  # the second copy is the first
                    w = matrix(other, copy=True)
                _native.set_isa(level)
                assert same(expected, w(x[:m])), (n, d, m, level)
        _native.set_isa("auto")
        assert same(matrix(codes).row(n - 1), w.row(n - 1))


@pytest.mark.parametrize("spec", WORDS + LATTICES)
def test_words_are_those_that_decoding_gives(spec):
    rng = np.random.default_rng(11)
    for n, d, m in ((33, 200, 5), (7, 64, 1), (50, 257, 18), (3, 70, 2)):
        codes, x = coded(spec, n, d), rng.standard_normal((m, d)).astype(np.float32)
        native = matrix(codes)
        assert isinstance(native, _native.Matrix) and not isinstance(native, _native.Called)
        w = codes.codec.decode(codes).astype(np.float64)
        room = 1e-5 if spec in WORDS else 0.02
        found = []
        for level in LEVELS:
            _native.set_isa(level)
            found.append(matmul(x, codes))
            found.append(np.concatenate([matmul(x[i:i + 1], codes) for i in range(m)]))
            np.testing.assert_allclose(native.row(n - 1), w[n - 1], rtol=1e-5, atol=1e-6)
        _native.set_threads(1)
        found.append(matmul(x, codes))
        _native.set_threads(0)
        assert np.abs(found[0] - x @ w.T).max() < room * (np.abs(x) @ np.abs(w).T).max()
        assert all(same(found[0], y) for y in found[1:]), (n, d, m)
    _native.set_isa("auto")


@pytest.mark.parametrize("spec", ["int:4:step=1", "int:8:step=1", "int:1:step=2", "float:e2m1:scale=none", "trellis:3:memory=12"])
def test_integers_are_exact(spec):
    rng = np.random.default_rng(2)
    for d in (1, 2, 31, 64, 65, 127, 128, 130):
        w = rng.integers(-8, 8, (32, d)).astype(np.float32)
        codes = compand.Codec(spec).encode(w)
        if spec.startswith("trellis"):
            block = codes.blocks[0]
            one = np.ones_like(block.parts["scale"])
            codes = compand.Codes(codes.codec, codes.shape, codes.dtype, (Block(block.rows, {**block.parts, "scale": one}),))
        x = rng.integers(-127, 128, (3, d)).astype(np.float32)
        x[:, ::16] = 127
        np.testing.assert_array_equal(matmul(x, codes), matmul_reference(x, codes))


@pytest.mark.parametrize("spec", MOVED + OTHERS)
def test_expressions(spec):
    codes, x = coded(spec, 48, 192), np.random.default_rng(3).standard_normal((3, 192)).astype(np.float32)
    exact = matmul_reference(x, codes)
    y = matmul(x, codes)
    assert np.abs(y - exact).std() < 0.012 * exact.std() + 1e-6
    y = matmul(x, codes, activations="float32")
    np.testing.assert_allclose(y, exact, atol=1e-4 * np.abs(exact).max())


@pytest.mark.parametrize("spec", MOVED + OTHERS)
def test_no_bit_depends_on_the_machine(spec):
    rng = np.random.default_rng(12)
    for n, d, m in ((48, 192, 5), (33, 130, 18), (5, 70, 1)):
        codes, x = coded(spec, n, d), rng.standard_normal((m, d)).astype(np.float32)
        for activations in ("int8", "float32"):
            found = []
            for level in LEVELS:
                for threads in (1, 3):
                    _native.set_isa(level)
                    _native.set_threads(threads)
                    found.append(matmul(x, codes, activations=activations))
                    found.append(np.concatenate([matmul(x[i:i + 1], codes, activations=activations) for i in range(m)]))
            _native.set_isa("auto")
            _native.set_threads(0)
            assert all(same(found[0], y) for y in found[1:]), (n, d, m, activations)


def test_no_product_is_of_blas(monkeypatch):
    """numpy's own products are not used once the weights are there, whatever they would give on another machine."""
    x = np.random.default_rng(13).standard_normal((3, 192)).astype(np.float32)

    class Guarded(np.ndarray):
        def __array_ufunc__(self, ufunc, method, *inputs, **more):
            assert ufunc is not np.matmul, "a product of BLAS"
            plain = [np.asarray(i) if isinstance(i, Guarded) else i for i in inputs]
            return getattr(ufunc, method)(*plain, **more).view(Guarded)

    for spec in MOVED + OTHERS:
        for activations in ("int8", "float32"):
            codes = coded(spec, 48, 192)
            matmul(x, codes, activations=activations)
            kept = codes.__dict__["_products"][activations]
            if not isinstance(kept, _native.Matrix):
                kept(x.view(Guarded))


def test_few_values_are_multiplied_where_they_are():
    rng = np.random.default_rng(14)
    for n, d, m, few in ((1, 1, 1, 1.0), (33, 200, 5, 0.05), (16, 64, 3, 0.0), (50, 257, 40, 0.3), (7, 70, 130, 0.02)):
        w = rng.standard_normal((n, d)).astype(np.float32) * (rng.random((n, d)) < few)
        row, column = np.nonzero(w)
        start = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=n))]).astype(np.int64)
        native, x = _native.Sparse(d, start, column.astype(np.uint32), w[row, column]), rng.standard_normal((m, d)).astype(np.float32)
        found = []
        for level in LEVELS:
            _native.set_isa(level)
            found += [native(x), np.concatenate([native(x[i:i + 1]) for i in range(m)])]
        np.testing.assert_allclose(found[0], x @ w.T, atol=1e-5 * max(1, np.abs(x @ w.T).max()))
        assert all(same(found[0], y) for y in found[1:]) and np.array_equal(native.row(n - 1), w[n - 1])
    _native.set_isa("auto")


def test_weights_behind_weights():
    rng = np.random.default_rng(15)
    inner, before, x = (rng.standard_normal(s).astype(np.float32) for s in ((20, 6), (6, 70), (5, 70)))
    both = _native.Behind(_native.Plain(inner), _native.Plain(before))
    assert both.shape == (20, 70)
    np.testing.assert_allclose(both(x), x @ (inner @ before).T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(both.row(3), (inner @ before)[3], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="row for each column"):
        _native.Behind(_native.Plain(before), _native.Plain(inner))


@pytest.mark.parametrize("spec", [
    "sparse:0.02+int:3:group=64", "lowrank:4+int:4:group=64", "lowrank:4:value=float8+sparse:0.01+int:2", "rotate,int:6", "center,int:4",
    "pca:16,int:8"])
def test_sums_stay_native(spec):
    codes = coded(spec, 48, 192)
    native, w = matrix(codes), codes.codec.decode(codes)
    assert not isinstance(native, _native.Called)
    np.testing.assert_allclose(native.row(7), w[7], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", range(1, 9))
def test_tables_of_one_byte_and_of_two(bits):
    rng, k = np.random.default_rng(bits), 1 << bits
    for n, d, m, group in ((1, 1, 5, 64), (17, 130, 4, 64), (5, 257, 1, 32), (33, 70, 6, 16)):
        ids = rng.integers(0, k, (n, d)).astype(np.uint8)
        low, high = rng.integers(0, 256, k).astype(np.uint8), rng.integers(0, 256, k).astype(np.uint8)
        scale = np.ones((n, -(-d // group)), np.float32)
        x = rng.integers(-127, 128, (m, d)).astype(np.float32)
        x[:, ::16] = 127  # each block's step is one
        for above in (None, high):
            w = _native.Ids(d, pack(ids, k), bits, 0, 1.0, group, scale=scale, levels=low, high=above)
            levels = low[ids].astype(np.int64) + (0 if above is None else 128 * above[ids].astype(np.int64))
            exact = x.astype(np.int64) @ levels.T
            found = []
            for level in LEVELS:
                _native.set_isa(level)
                found.append(w(x))
            assert np.abs(found[0] - exact).max() <= np.abs(exact).max() * 2.0 ** -20
            assert all(same(found[0], y) for y in found[1:])
    _native.set_isa("auto")


def test_many_blocks_and_a_file(tmp_path):
    w = np.random.default_rng(4).standard_normal((300, 8192)).astype(np.float32)
    x = np.random.default_rng(5).standard_normal((2, 8192)).astype(np.float32)
    for spec in ("int:4:group=64", "trellis:2:memory=12"):
        codec = compand.Codec(spec)
        codes = codec.encode(w)
        assert len(codes.blocks) > 1
        y = matmul(x, codes)
        assert np.abs(y - matmul_reference(x, codes)).max() < 0.02 * y.std() * 3
        with compand.Writer(tmp_path / f"{codec.stage.name}.cpd") as out:
            out.write("w", w, codec)
        with compand.open(tmp_path / f"{codec.stage.name}.cpd") as file:
            assert same(y, matmul(x, file["w"].codes()))


def test_shapes_and_errors():
    codes = coded("int:4:group=64", 8, 64)
    x = np.random.default_rng(6).standard_normal((2, 3, 64)).astype(np.float32)
    y = matmul(x, codes)
    assert y.shape == (2, 3, 8) and same(y[1, 2], matmul(x[1, 2], codes))
    assert matmul(np.zeros((0, 64), np.float32), codes).shape == (0, 8)
    torch = pytest.importorskip("torch")
    t = matmul(torch.from_numpy(x), codes)
    assert isinstance(t, torch.Tensor) and same(t.numpy(), y)
    for bad in (np.zeros((2, 63), np.float32), np.float32(1)):
        with pytest.raises(InputError, match="like the weights"):
            matmul(bad, codes)
    with pytest.raises(InputError, match="int8 or float32"):
        matmul(x, codes, activations="int4")
    with pytest.raises(InputError, match="weights"):
        matmul(x, compand.Codec("int:4").encode(np.ones(5, np.float32)))


def test_what_is_not_finite_stays_in_its_line():
    for spec in ("int:4:group=64", "trellis:3:memory=12"):
        codes = coded(spec, 16, 256)
        x = np.random.default_rng(7).standard_normal((3, 256)).astype(np.float32)
        good = matmul(x, codes)
        x[1, 3], tiny = np.nan, np.full((1, 256), 1e-38, np.float32)
        y = matmul(x, codes)
        assert np.isnan(y[1]).all() and same(y[[0, 2]], good[[0, 2]]) and not matmul(tiny, codes).any()
        x[1, 3] = np.inf
        assert np.isnan(matmul(x, codes)[1]).all()


@pytest.mark.parametrize("spec", ["int:4:group=64", "trellis:3:memory=12", "table:16", "sparse:0.05+int:4:group=64", "lowrank:4",
                                  "vq:16:dim=4", "hadamard,sign:64", "int:3:group=64+salient:0.5:2"])
def test_parts_of_wrong_sizes(spec):
    codes = coded(spec, 32, 128)
    for name, part in codes.blocks[0].parts.items():
        for wrong in (part[:-1], np.concatenate([part, part]), part.reshape(-1)[:0].reshape(0, *part.shape[1:])):
            parts = {**codes.blocks[0].parts, name: np.ascontiguousarray(wrong)}
            bad = compand.Codes(codes.codec, codes.shape, codes.dtype, (Block(32, parts),))
            for activations in ("int8", "float32"):
                try:
                    y = matmul(np.ones((2, 128), np.float32), bad, activations=activations)
                except CompandError:
                    continue
                assert y.shape == (2, 32), (name, activations)  # more than is needed, perhaps


def test_hostile_parts_give_named_errors():
    codes = coded("sparse:0.05+int:4:group=64", 16, 128)
    parts = dict(codes.blocks[0].parts)
    parts["0.high"] = np.full_like(parts["0.high"], 255)
    bad = compand.Codes(codes.codec, codes.shape, codes.dtype, (Block(16, parts),))
    with pytest.raises(CompandError):
        matmul(np.ones((1, 128), np.float32), bad)
    with pytest.raises(ValueError, match="fit"):
        _native.Ids(64, np.zeros((2, 31), np.uint8), 4, 0, 1.0, 64, scale=np.ones((2, 1), np.float32))
    ids, book = np.zeros((2, 8), np.uint8), np.zeros((1, 256, 8), np.float32)
    wrongs = [
        ({"bytes": np.zeros((2, 7), np.uint8)}, "fit the width"), ({"book": book[:, :255].copy()}, "word for each id"),
        ({"book": None}, "one codebook"), ({"book": np.zeros((3, 256, 8), np.float32)}, "one for each piece"), ({"bits": 21}, "sizes"),
        ({"dim": 0}, "sizes"), ({"start": np.arange(8, dtype=np.uint32) * 9}, "follow"), ({"group": 8}, "have scales"),
        ({"start": np.arange(8, dtype=np.uint32) * 7}, "cover"), ({"scale": np.ones((1, 1), np.float32)}, "scales"),
        ({"fraction": 3}, "no codebook")]
    for wrong, match in wrongs:
        with pytest.raises(ValueError, match=match):
            _native.Words(64, **({"bytes": ids, "bits": 8, "dim": 8, "book": book} | wrong))
    cells = {"start": np.int64([0, 1, 3]), "columns": np.uint32([63, 0, 5]), "values": np.ones(3, np.float32)}
    for start in ([0, 4, 3], [0, 1, 4], [1, 1, 3], [0, -1, 3], [0, 3], []):
        with pytest.raises(ValueError, match="rows"):
            _native.Sparse(64, **(cells | {"start": np.int64(start)} | ({} if start != [0, 3] else {"values": np.ones(2, np.float32)})))
    for column in (64, 2 ** 32 - 1):
        with pytest.raises(ValueError, match="below"):
            _native.Sparse(64, **(cells | {"columns": np.uint32([0, column, 5])}))
    nan = compand.Codec("float:e4m3").encode(np.ones((2, 64), np.float32))
    parts = {**nan.blocks[0].parts, "ids": np.full((2, 64), 127, np.uint8)}
    assert np.isnan(matmul(np.ones((1, 64), np.float32), compand.Codes(nan.codec, nan.shape, nan.dtype, (Block(2, parts),)))).all()
    with pytest.raises(ValueError, match="fit"):
        _native.Trellis(64, np.zeros(10, np.uint8), 2, np.ones(1, np.uint16), 128, 128,
                        np.ones((1, 1, 16), np.float32), np.zeros((0, 64), np.int16), np.zeros((0, 1), np.float32))


@pytest.mark.parametrize("spec", ["nested:2x4x8", "nested:2x4:rule=round:group=64", "hadamard,nested:3x6", "nested:1x3,rans"])
def test_nested_bits_run_natively(spec):
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((70, 192), dtype=np.float32), rng.standard_normal((5, 192), dtype=np.float32)
    codes = compand.Codec(spec).encode(w)
    for terms in (1, 2):
        few = compand.terms.codes_of(codes, terms)
        exact = x @ codes.codec.decode(codes, terms=terms).T
        assert np.abs(compand.matmul(x, few) - exact).std() < 0.006 * exact.std()
        assert type(compand.op.matmul.matrix(few)).__name__ in ("Ids", "Rotated")
