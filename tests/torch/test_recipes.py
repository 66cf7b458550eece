"""Each choice of a recipe does what its paper says: properties that can fail."""

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from compand import Codec  # noqa: E402
from compand.errors import SpecError  # noqa: E402
from compand.torch import CollapseWarning, Quantize, Recipe  # noqa: E402
from compand.torch import assign as assignment  # noqa: E402


def rows(n=256, d=8, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def descend(q, x, steps, lr, weight=1.0):
    optimizer = torch.optim.Adam(q.parameters(), lr)
    for _ in range(steps):
        out = q(x)
        optimizer.zero_grad()
        ((out.y - x).square().mean() + weight * out.loss).backward()
        optimizer.step()
    return q.eval()


def exported(q, x):
    """The export decodes to what the layer gives."""
    codec = q.eval().export()
    return np.array_equal(codec.decode(codec.encode(x.numpy())), q(x).y.detach().numpy())


def test_soft_assignment_is_the_dense_softmax(monkeypatch):
    monkeypatch.setattr(assignment, "SCORES", 300)  # so that rows are cut into chunks
    x, words = rows(40, 4).double().requires_grad_(), rows(30, 4, 1).double().requires_grad_()
    scale = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    p = torch.softmax(-torch.cdist(x, words).square() / scale, 1)
    g = rows(40, 4, 2).double()
    for found, dense in [((assignment.soft(x, words, scale, None)[0] * g).sum(), ((p @ words) * g).sum()),
                         (assignment.entropies(x, words, scale)[0], -(p * p.log()).sum(1).mean()),
                         (assignment.entropies(x, words, scale)[1], -(p.mean(0) * p.mean(0).log()).sum())]:
        assert torch.allclose(found, dense)
        for a, b in zip(torch.autograd.grad(found, (x, words, scale)), torch.autograd.grad(dense, (x, words, scale), retain_graph=True),
                        strict=True):
            assert torch.allclose(a, b, atol=1e-9)


@pytest.mark.parametrize("spec", ["vq:16", "vq:16:dim=3", "pq:2x4"])
@pytest.mark.parametrize("estimator", ["soft", "gumbel"])
def test_soft_codebooks_learn_and_store_what_they_return(estimator, spec):
    q = Quantize(spec, 8, estimator=estimator, update="gradient", temperature=0.5)
    x = rows().requires_grad_()
    out = q(x)
    (out.y.square().mean() + out.loss).backward()
    assert torch.equal(q.decode(out.parts), out.y.detach()) and x.grad.abs().sum() > 0 and q.temperature.grad is not None
    assert (out.ids != q.eval()(x).ids).any() == (estimator == "gumbel")
    assert exported(q, x.detach())


@pytest.mark.parametrize("choices", [{"estimator": "gumbel", "update": "gradient"}, {"entropy": 0.1}])
def test_where_each_row_has_its_codeword_gradients_stay_finite(choices):
    q = Quantize("vq:64", 8, **choices)
    x = rows(40).requires_grad_()
    for _ in range(2):
        out = q(x)
        (out.y.square().mean() + out.loss).backward()
    assert torch.isfinite(x.grad).all() and torch.isfinite(out.loss)
    assert q.temperature.grad is None or torch.isfinite(q.temperature.grad)


def test_bernoulli_draws_by_the_logistic_of_the_value():
    q = Quantize("sign", 4, estimator="bernoulli", commit=0.0)
    x = torch.tensor([[0.25, -0.25, 2.0, 0.0]]).repeat(4000, 1) + torch.tensor([[1.0], [-1.0]]).repeat(2000, 1) * 1e-3
    x = x.requires_grad_()
    out = q(x)
    assert torch.equal(q.decode(out.parts), out.y.detach())
    out.y.sum().backward()
    assert (x.grad >= 0).all() and x.grad.sum() > 0
    fitted = Quantize("sign", 4, estimator="bernoulli").fit(rows(500, 4))
    share = fitted(x).ids.float().mean(0)
    assert torch.allclose(share, torch.sigmoid(4 * x.detach()[0]), atol=0.08)
    assert torch.equal(fitted.eval()(x).ids, (x >= 0).to(torch.uint8)) and exported(fitted, x.detach())


def test_balanced_assignment_keeps_to_its_capacity():
    x = torch.cat([rows(1800) * 0.05, rows(248, seed=1) * 4])  # a crowd, and a few far away
    def largest(**choices):
        q = Quantize("vq:32", 8, update="frozen", revive=0.0, **choices).fit(x)
        for _ in range(12):
            ids = q(x).ids
        return int(ids.flatten().bincount(minlength=32).max()), q

    even = len(x) / 32
    near, _ = largest()
    two, _ = largest(balance=2.0)
    one, q = largest(balance=1.0)
    assert near > 3 * even and two == 2 * even and one == even
    out = q(x)
    assert torch.equal(q.decode(out.parts), out.y) and exported(q, x)
    q = Quantize("pq:2x4", 8, balance=1.0).fit(x)
    for _ in range(12):
        ids = q(x).ids
    assert max(int(ids[:, j].bincount(minlength=16).max()) for j in range(2)) == len(x) / 16
    with pytest.raises(SpecError, match="shares"):
        Recipe(balance=0.5)


def test_entropy_spreads_the_use_of_codewords():
    def perplexity(entropy):
        torch.manual_seed(0)
        encode = torch.nn.Linear(8, 4)
        q = Quantize("vq:64", 4, entropy=entropy, revive=0.0, update="gradient").fit(rows(512, 4) * 3)
        x = rows(512, 8, 3)
        optimizer = torch.optim.Adam(encode.parameters(), 1e-2)
        for _ in range(60):
            loss = q(encode(x)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        p = q(encode(x)).ids.flatten().bincount(minlength=64) / 512
        return float(torch.exp(-(p[p > 0] * p[p > 0].log()).sum()))

    assert perplexity(0.3) > 1.5 * perplexity(0.0)


def test_disentangled_parts_are_orthogonal():
    base = rows(2048, 4)
    x = torch.cat([base, base + 0.3 * rows(2048, 4, 1)], 1)  # the halves say the same

    def entangled(weight):
        q = descend(Quantize("pq:2x4", 8, update="gradient", disentangle=weight, codebook=0.3), x, 80, 2e-2)
        y = q(x).y.detach().reshape(-1, 2, 4)
        assert exported(q, x)
        return float((y[:, 0] * y[:, 1]).sum(1).square().mean())

    assert entangled(20.0) < 0.5 * entangled(0.0)


def test_the_exponent_is_learnt_and_exported_in_the_spec():
    x = rows(512, 16).sign() * rows(512, 16, 1).abs() ** 3  # heavy tails want a small exponent
    q = Quantize("compand:power:0.9,int:4:per=tensor", 16, update="gradient", exponent=True, codebook=1.0)
    before = Quantize("compand:power:0.9,int:4:per=tensor", 16, update="frozen").fit(x).eval()
    descend(q, x, 150, 1e-2)
    spec = q.export().spec
    amount = float(spec.partition("power:")[2].partition(",")[0])
    assert 0.1 <= amount < 0.8 and exported(q, x)
    assert (q(x).y - x).square().mean() < 0.8 * (before(x).y - x).square().mean()
    out = q.train()(x)
    assert torch.equal(q.decode(out.parts), out.y.detach())


def test_the_binary_point_moves_by_the_gradient():
    x = rows(256, 16)
    q = Quantize("int:6:per=tensor:pow2=true", 16, update="gradient").fit(x)
    first = int(q.export().state()["scale_"][0])
    descend(q, x * 8, 120, 0.1)
    last = int(q.export().state()["scale_"][0])
    assert first + 2 <= last <= first + 4 and exported(q, x * 8)


def test_annealing_holds_what_is_sure():
    q = Quantize("int:4:per=tensor", 16, estimator="straight", update="frozen", commit=0.0, anneal=0.1).fit(rows(64, 16))
    x = rows(64, 16, 5).requires_grad_()
    q(x).y.sum().backward()
    s = float(abs(q.export().state()["scale_"][0]))
    border = ((x.detach() / s - 0.5) - (x.detach() / s - 0.5).round()).abs()  # steps to the nearest half
    inside = x.detach().abs() < 6 * s
    assert torch.equal((x.grad != 0)[inside], (border <= 0.1)[inside]) and 0.1 < (x.grad != 0).float().mean() < 0.3
    with pytest.raises(SpecError, match="grids"):
        Quantize("vq:16", 8, anneal=0.1)(rows().requires_grad_())


def test_a_random_number_of_columns_is_kept():
    q = Quantize("pq:4x4", 8, columns=True)
    widths = {int((q(rows(seed=i)).y.abs().sum(0) > 0).sum()) for i in range(40)}
    assert widths == set(range(1, 9))
    assert exported(q, rows())


def test_nested_bits_train_at_every_width_and_evaluate_at_any():
    q = Quantize("nested:2x4x8", 8, prefix=True)
    x = rows()
    assert {len(q(x).parts) for _ in range(30)} == {2, 3, 4}
    out = q(x)
    assert torch.equal(q.decode(out.parts), out.y)
    q.eval()
    codec = q.export()
    codes = codec.encode(x.numpy())
    for terms in (1, 2, 3, None):
        q.terms = terms
        assert np.array_equal(q(x).y.numpy(), codec.decode(codes, terms=terms))


def test_projection_and_codes_learnt_together():
    """LR²VQ: codewords of low rank, their projection trained with them."""
    x = rows(1024, 16) * torch.linspace(2, 0.5, 16)
    task = torch.linspace(0.1, 1, 16)  # wants what varies least

    def error(update):
        torch.manual_seed(0)
        q = Quantize("pca:4,vq:64", 16, update=update, commit=0.0, codebook=0.0).fit(x)
        optimizer = torch.optim.Adam(list(q.parameters()) or [torch.zeros(1, requires_grad=True)], 3e-3)
        for _ in range(150):
            loss = ((q(x).y - x) * task).square().mean()
            optimizer.zero_grad()
            if loss.requires_grad:
                loss.backward()
            optimizer.step()
        assert exported(q, x)
        return float(((q.eval()(x).y - x) * task).square().mean().detach())

    assert error("gradient") < 0.9 * error("frozen")


def test_group_residual_terms_refine_each_group():
    x = rows(2000)
    q = Quantize("pq:2x5+pq:2x5", 8)
    for i in range(5):
        q(rows(2000, seed=i))
    codec = q.eval().export()
    codes = codec.encode(x.numpy())
    for columns in (slice(0, 4), slice(4, 8)):
        one, two = (np.square(codec.decode(codes, terms=t) - x.numpy())[:, columns].mean() for t in (1, 2))
        assert two < 0.5 * one
    assert codec.layout(codes.form)["0.ids"].shape == (2000, 2)


def test_kmeans_moves_codewords_now_and_then_only():
    q = Quantize("vq:16", 8, update="kmeans", revive=0.0)
    moved, before = [], None
    for step in range(60):
        q(rows(256, seed=step))
        now = q.export().state()["codebook_"]
        now = (now - now.mean(0)) / now.std(0)  # all go with mean and spread of the rows
        moved.append(before is not None and np.abs(now - before).max() > 1e-3)
        before = now
    assert 2 <= sum(moved) <= 4 and not any(moved[:8])
    x = rows(2048, seed=99).numpy()
    codec, fitted, first = q.eval().export(), Codec("vq:16").fit(rows(8192, seed=98).numpy()), Codec("vq:16").fit(rows(256).numpy())
    error, offline, once = (np.square(c.decode(c.encode(x)) - x).mean() for c in (codec, fitted, first))
    assert error < 1.02 * offline < once
    with pytest.raises(SpecError, match="update='ema'"):
        Quantize("vq:65536", 8, update="kmeans")


def test_collapses_are_told_apart():
    def told(q, x, hear=True):
        q._steps = 99
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            for _ in range(101):
                out = q(x)
                ((out.y if hear else out.y.detach()).sum() + out.loss).backward()
        return " ".join(str(w.message) for w in found if w.category is CollapseWarning)

    x = rows(512)
    assert told(Quantize("vq:16", 8).fit(x), x.clone().requires_grad_()) == ""
    same = torch.ones(512, 8) + 1e-6 * rows(512)
    assert "posterior collapse" in told(Quantize("vq:16", 8, revive=0.0).fit(x), same.requires_grad_())
    q = Quantize("vq:64", 8, revive=0.0, update="frozen").fit(rows(8).repeat(64, 1))  # 8 distinct codewords
    assert "representation collapse" in told(q, x.clone().requires_grad_())
    q = Quantize("vq:16", 8).fit(x)
    q._loudest = 1e6  # it was heard once
    assert "ignores them" in told(q, x.clone().requires_grad_())
    report = Quantize("vq:256", 8).fit(x).report(x)
    assert 6 < report.information <= 8 and 0 < report.error < 0.5 and report.dimensions == 8 and report.twins == 0
