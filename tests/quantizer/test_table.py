import numpy as np
import pytest
from through import through

import compand
from compand.quantizer.levels import NAMED, learn, place
from compand.quantizer.table import Table
from compand.stage import Form

torch = pytest.importorskip("torch")
SPECS = """table:16 table:2 table:1 table:256 table:nf4 table:nf4:group=33 table:nf3:group=64:scale=rms table:gauss4 table:gauss1:group=10
    table:8:per=row table:8:per=row:rows=7 table:16:group=64 table:16:scale=rms table:5:per=row:scales=float32""".split()


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((200, 100), dtype=np.float32)


def error(q, x):
    return float(((x - through(q, x)[0]) ** 2).mean())


@pytest.mark.parametrize("spec", SPECS)
def test_corner_cases_and_torch(x, spec):
    q = compand.parse(spec)
    assert str(q) == spec
    for factor in (1, 0, 1e30, 1e-30):
        z = x * np.float32(factor)
        z[0], z[1] = 0, 3 * factor
        fitted = q.fit(z)
        y, parts = through(fitted, z)
        assert np.isfinite(y).all() and np.linalg.norm(y.astype(float) - z) <= 1.01 * np.linalg.norm(z.astype(float))
        t = fitted.encode(torch.from_numpy(z))
        assert (t["ids"].numpy() != parts["ids"]).mean() < 1e-3
        np.testing.assert_allclose(fitted.decode(t, Form(*x.shape)).numpy(), y, rtol=0.02, atol=factor)
    for shape in ((1, 1), (3, 1), (1, 5)):
        z = x[:shape[0], :shape[1]].astype(np.float64)
        assert through(q.fit(z), z)[0].dtype == np.float64


def test_lloyd_max_of_a_gaussian():
    x = np.random.default_rng(1).standard_normal((256, 4096), dtype=np.float32)
    for bits, best in ((1, 0.3634), (2, 0.1175), (3, 0.03454), (4, 0.009497)):  # Max (1960), Table I
        assert abs(error(Table(str(1 << bits)).fit(x), x) / best - 1) < 0.01
        assert abs(error(Table(f"gauss{bits}"), x) / best - 1) < 0.01
        np.testing.assert_allclose(Table(str(1 << bits)).fit(x).table_, NAMED[f"gauss{bits}"], atol=0.05)


def test_place_is_nearest_and_ties_go_down():
    rng = np.random.default_rng(0)
    for k in (1, 2, 7, 16, 100, 256):
        table = np.sort(rng.standard_normal(k).astype(np.float32))
        middle = (table[1:] + table[:-1]) / np.float32(2)
        x = np.concatenate([rng.standard_normal(1000).astype(np.float32), table, middle, np.nextafter(middle, np.float32(9))])
        far = np.abs(x[:, None].astype(np.float64) - table)
        np.testing.assert_array_equal(place(x, table), far.argmin(1))
        np.testing.assert_array_equal(place(torch.from_numpy(x), table).numpy(), far.argmin(1))
    assert place(np.float32([0, 1, 2]), np.float32([0, 2])).tolist() == [0, 0, 1]


def test_learn_finds_all_distinct_values_and_follows_weights():
    v = np.float32([-5, -4.5, 0, 1, 100])
    np.testing.assert_array_equal(learn(np.repeat(v, 50)[None], 5)[0], v)
    assert np.isin(v, learn(v[None], 8)).all()
    x = np.float32([[0, 1, 10, 11]] * 2)
    assert learn(x, 2, np.float32([[1, 3, 1, 1], [0, 0, 0, 0]])).tolist() == [[0.75, 10.5], [0.5, 10.5]]


def test_weights(x):
    weight = np.where(np.arange(100) < 10, 100, 1).astype(np.float32)[None]
    z = x * np.where(np.arange(100) < 10, 3, 1).astype(np.float32)
    for spec in ("table:4", "table:4:group=50"):
        fits = compand.parse(spec).fit(z), compand.parse(spec).fit(z, weight=weight)
        plain, weighted = (((z - through(q, z)[0]) ** 2 * weight).sum() for q in fits)
        assert weighted < plain


def test_tables_of_rows_beat_one_table(x):
    z = x ** np.arange(1, 4).repeat(100)[:200, None].clip(1, 3)
    one, rows = error(Table(16).fit(z), z), error(Table(16, per="row"), z)
    assert rows < error(Table(16, per="row", rows=5), z) < one


def test_nf4_beats_int_on_gaussian_groups_and_sums_get_better(x):
    assert error(Table("nf4", group=50), x) < error(compand.parse("int:4:group=50:search=absmax"), x)
    sum_ = compand.parse("table:4:group=20+table:4:group=20+table:nf3:group=20").fit(x)
    parts = sum_.encode(x)
    errors = [((x - sum_.decode(parts, Form(*x.shape), terms)) ** 2).mean() for terms in (1, 2, 3)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


@pytest.mark.parametrize("spec", ["table:0", "table:257", "table:nf9", "table:nf4:per=row", "table:4:rows=2", "table:4:group=8:scale=none",
                                  "table:016", "table"])
def test_refused(spec):
    with pytest.raises(compand.SpecError):
        compand.parse(spec)
