import numpy as np
import pytest

import compand
from compand import Codec, InputError, SpecError, UnsupportedError
from compand.integration.faiss import factory_of, spec_of
from compand.integration.faiss_index import codes_of

SQ8 = "int:8:per=column:sym=false:search=absmax"
PAIRS = {
    "OPQ48_192,PQ48x4fs": "opq:48:k=192:bits=4,pq:48x4", "OPQ8,PQ8": "opq:8,pq:8x8", "PCAR64,SQ8": f"pca:64,rotate,{SQ8}",
    "PCA64,SQ4": "pca:64,int:4:per=column:sym=false:search=absmax", "PCAW64,PQ8": "pca:64:whiten=true,pq:8x8", "RR,PQ8": "rotate,pq:8x8",
    "RR64,PQ8x6": "rotate:64,pq:8x6", "L2norm,PQ8": "scale:norm:row,pq:8x8", "IVF256,PQ48": "vq:256+pq:48x8", "Flat": "raw",
    "RQ4x8": "vq:256+vq:256+vq:256+vq:256", "RQ2x8_2x6": "vq:256+vq:256+vq:64+vq:64", "PRQ2x3x8": "pq:2x8+pq:2x8+pq:2x8",
    "PQ48x4fs,Refine(SQ8)": f"pq:48x4+{SQ8}", "OPQ8_32,IVF4,PQ8,Refine(SQ8)": f"(opq:8:k=32,vq:4+pq:8x8)+{SQ8}",
    "IVF10,PQ4,Refine(PQ16x6)": "vq:10+pq:4x8+pq:16x6", "OPQ4,IVF16,SQ6": "opq:4,vq:16+int:6:per=column:sym=false:search=absmax",
}
ALIKE = {  # other names of the same codes
    "PQ48x4": "pq:48x4", "PQ8x8np": "pq:8x8", "PQ8x4fs_64": "pq:8x4", "IDMap,OPQ8,PQ8": "opq:8,pq:8x8", "IDMap2,PQ8": "pq:8x8",
    "IVF256,PQ48x4fs": "pq:48x4", "IVF256,PQ48x4fsr": "vq:256+pq:48x4", "IVF4,Flat": "raw", "IVF4_HNSW32,PQ8": "vq:4+pq:8x8",
    "IVF4,PQ8+8": "vq:4+pq:8x8+pq:8x8", "HR128,PQ8": "hadamard:odd=pad,pq:8x8", "RQ2x8_Nqint8": "vq:256+vq:256",
        "L2Norm,SQ8": f"scale:norm:row,{SQ8}",
}


@pytest.mark.parametrize(("text", "spec"), PAIRS.items())
def test_factory_strings_there_and_back(text, spec):
    assert spec_of(text) == spec == Codec.from_faiss(text).spec
    assert Codec(spec).to_faiss() == text


@pytest.mark.filterwarnings("ignore:.*the lists are left out")
@pytest.mark.parametrize(("text", "spec"), ALIKE.items())
def test_other_names(text, spec):
    assert spec_of(text) == spec


def test_lists_are_not_dropped_in_silence():
    with pytest.warns(UserWarning, match=r"IVF256,PQ48x4fsr keeps them \(vq:256\+pq:48x4\)"):
        assert spec_of("IVF256,PQ48x4fs") == "pq:48x4"


@pytest.mark.filterwarnings("ignore:.*the lists are left out")
@pytest.mark.parametrize("text", [t for t in (*PAIRS, *ALIKE) if not t.startswith("HR")])
def test_faiss_itself_reads_these_strings(text):
    faiss = pytest.importorskip("faiss")
    faiss.index_factory(384, text)
    back = factory_of(Codec.from_faiss(text))
    faiss.index_factory(384, back)
    assert spec_of(back) == spec_of(text)


@pytest.mark.parametrize(("text", "at"), [("PQ", 0), ("PQ0", 0), ("PQ8x99", 0), ("Foo,PQ8", 0), ("RR,Foo8", 3), ("PQ8,SQ8", 4),
    ("IVF0,PQ8", 0),
                                          ("PCA32", 4), ("PQ8,Refine(Flat)", 11), ("PQ8,Refine(Oh)", 11), ("PQ99999999999", 0), ("", 0),
                                          (",PQ8", 0), ("PQ8))", 0), ("PQ8, PQ8", 4), ("PQ8,Refine(SQ8", 0), ("RQ999999999x8", 0),
                                              ("RQ2x30", 0)])
def test_what_cannot_be_read_gets_a_caret(text, at):
    with pytest.raises(SpecError) as e:
        spec_of(text)
    assert e.value.at == at and "^" in str(e.value)


@pytest.mark.parametrize(("text", "hint"), [("HNSW32,PQ8", "graph"), ("PCA64,Flat", "int:16"), ("PQ8,RFlat", "Refine"), ("LSH", "sign"),
    ("ITQ64,LSH", "sign"),
                                            ("RaBitQ", "hadamard"), ("SQfp16", "raw"), ("RQ24x8", "16 terms"), ("IMI2x8,PQ8", "IVF"),
                                                ("LSQ8x8", "RQ"),
                                            ("IVF4(RCQ2x2),PQ8", "IVF"), ("Pad96,PQ8", "parts"), ("ZnLattice4x10_6", "lattice")])
def test_what_has_no_equivalent_says_what_is_near(text, hint):
    with pytest.raises(UnsupportedError, match=hint) as e:
        spec_of(text)
    assert "^" in str(e.value)


def test_specs_that_faiss_has_not():
    for spec in ("hadamard,int:4", "klt,grouped:48", "pq:8x8,rans", "int:8", "vq:100+vq:100", "lattice:e8", "hadamard,pq:8x8"):
        with pytest.raises(UnsupportedError, match="faiss has no"):
            Codec(spec).to_faiss()
    with pytest.raises(InputError, match="width"):
        Codec("pca,pq:8x8").to_faiss()
    assert Codec("pca,pq:8x8").to_faiss(64) == "PCA64,PQ8"


def test_a_factory_codec_is_as_good_as_faiss():
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(1)
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((6000, 32)) @ rng.standard_normal((32, 32)) * np.exp(-np.arange(32) / 8)).astype(np.float32)
    for text in ("PQ8x4fs", "PCA16,PQ8x4np", "IVF16,PQ8x4np", "SQ4"):  # RQ is better in faiss, which searches with a beam
        codec = Codec.from_faiss(text).fit(x[:5000])
        index = faiss.index_factory(32, text)
        index.train(x[:5000])
        y = x[5000:]
        ours = float(((codec.decode(codec.encode(y)) - y) ** 2).mean())
        theirs = float(((index.sa_decode(index.sa_encode(y)) - y) ** 2).mean())
        assert ours < theirs * 1.06, text


@pytest.mark.parametrize("text", ["PQ8np", "PQ8x4np", "PQ4x6np", "PQ8x4fs", "IVF8,PQ8x4np", "IVF8,PQ4x8np", "RQ3x6", "RQ2x6_1x4",
    "PRQ2x2x6", "IDMap,PQ8x4np",
                                  "IVF8,PQ8x4np,IDMap"])
def test_a_trained_index_decodes_to_the_same_floats(text):
    x, index, ids = trained(text)
    codec = Codec.from_faiss(index)
    theirs = reconstructed(index, ids)
    codes, own = codes_of(index)
    assert sorted(own.tolist()) == sorted(ids.tolist())
    assert np.array_equal(codec.decode(codes), theirs[np.argsort(ids)][np.searchsorted(np.sort(ids), own)])
    if "RQ" not in text:  # faiss looks for residuals with a beam
        ours = codec.decode(codec.encode(x))
        assert (ours == theirs).all(1).mean() > 0.999
    again = compand.open(codes.to_bytes())["x"]
    assert again.codec == codec and np.array_equal(again.array(), codec.decode(codes))


@pytest.mark.parametrize("text", ["PCA16,PQ8x4np", "PCAR16,PQ8x4fs", "OPQ8,PQ8x4fs", "OPQ4_16,PQ4np", "RR,PQ8np", "SQ8", "SQ6", "SQ4",
    "RR16,SQ8", "OPQ8,IVF8,PQ8x4np", "IVF8,RQ2x6"])
def test_a_trained_index_with_rotations_or_scales_decodes_alike(text):
    _, index, ids = trained(text)
    codes, own = codes_of(index)
    theirs = reconstructed(index, ids)
    assert np.allclose(codes.codec.decode(codes), theirs[own], atol=1e-5 * np.abs(theirs).max())


def test_search_in_what_faiss_indexed():
    x, index, _ = trained("PQ16x4fs")
    codes, ids = codes_of(index)
    rows = compand.search(x[:50], codes, 5, metric="l2")[1]
    flat = ((x[:50, None] - codes.codec.decode(codes)[None]) ** 2).sum(-1)
    assert np.array_equal(rows, np.argsort(flat, axis=1, kind="stable")[:, :5]) and np.array_equal(ids, np.arange(len(x)))


def test_indexes_that_have_no_equivalent():
    faiss = pytest.importorskip("faiss")
    for text in ("LSH", "HNSW8,Flat", "PCAW16,PQ8x4np", "RaBitQ", "IVF8,SQ8", "RQ17x2", "L2norm,PQ8x4np"):
        _, index, _ = trained(text)
        with pytest.raises(UnsupportedError):
            codes_of(index)
    with pytest.raises(InputError, match="not trained"):
        Codec.from_faiss(faiss.index_factory(32, "PQ8"))
    _, index, _ = trained("IVF8,PQ8x4fs")
    with pytest.raises(UnsupportedError, match="interleaves"):
        codes_of(index)
    assert Codec.from_faiss(index).spec == "pq:8x4"
    assert Codec.from_faiss(trained("L2norm,PQ8x4np")[1]).spec == "scale:norm:row,pq:8x4"


def trained(text):
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(1)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1500, 32), dtype=np.float32)
    mapped = "IDMap" in text
    index = faiss.index_factory(32, text.replace(",IDMap", ""))
    if text.endswith(",IDMap"):
        index = faiss.IndexIDMap(index)
    if hasattr(index, "chain"):
        for i in range(index.chain.size()):
            faiss.downcast_VectorTransform(index.chain.at(i)).niter = 2  # of OPQ
    index.train(x)
    ids = np.arange(len(x)) * (7 if mapped else 1) + (3 if mapped else 0)
    if mapped:
        index.add_with_ids(x, ids)
    else:
        index.add(x)
    return x, index, ids


def reconstructed(index, ids):
    import faiss

    if type(index).__name__ == "IndexIDMap":
        index = index.index
        return reconstructed(faiss.downcast_index(index), np.arange(index.ntotal))
    inner = faiss.try_extract_index_ivf(index)
    if inner is not None:
        inner.make_direct_map()
    return index.reconstruct_n(0, index.ntotal)
