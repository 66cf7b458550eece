"""Losses against their definitions written out, gradients against differences, and what each is for on a small encoder."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch.nn import functional as F  # noqa: E402

from compand.errors import InputError  # noqa: E402
from compand.torch import loss as losses  # noqa: E402

G = torch.Generator().manual_seed(0)


def some(*shape):
    return torch.randn(*shape, generator=G, dtype=torch.float64)


def test_decoupled_softmax_is_its_definition_and_softmax_for_one_positive():
    s, positive = some(6, 9), torch.rand(6, 9, generator=G) < 0.3
    positive[2] = False
    want = [-torch.log(s[i, j].exp() / (s[i, j].exp() + s[i][~positive[i]].exp().sum())) for i, j in positive.nonzero()]
    assert torch.allclose(losses.DecoupledSoftmax(1.0)(s, positive), torch.stack(want).mean())
    one = torch.arange(6) + 2
    assert torch.allclose(losses.DecoupledSoftmax(0.5)(s, F.one_hot(one, 9)), F.cross_entropy(s / 0.5, one))
    assert losses.DecoupledSoftmax()(s, torch.zeros(6, 9)).item() == 0
    assert losses.DecoupledSoftmax()(s, torch.ones(6, 9)).item() == 0  # no negatives, nothing to learn


def test_soft_top_k_sums_to_k_and_has_its_gradient():
    s = some(5, 12).requires_grad_()
    for k in (1, 3, 11):
        f = losses.SoftTopK(k, 0.3)
        assert torch.allclose(f.probabilities(s).sum(1), torch.full((5,), float(k), dtype=torch.float64), atol=1e-6)
        assert torch.autograd.gradcheck(lambda s, f=f: f.probabilities(s), (s,), atol=1e-6)
    sharp = losses.SoftTopK(4, 0.001).probabilities(s)
    assert torch.equal(torch.topk(sharp, 4).indices.sort().values, torch.topk(s, 4).indices.sort().values)
    with pytest.raises(InputError, match="k=12"):
        losses.SoftTopK(12).probabilities(s)


def test_partial_ranking_is_its_definition():
    s, teacher = some(4, 8), some(4, 8)
    teacher[0, 2], teacher[1, :] = float("nan"), -torch.inf
    f, want = losses.PartialRanking(0.7, least=-0.5), []
    for i in range(4):
        hard = [j for j in range(8) if teacher[i, j] >= -0.5 and teacher[i, j] > -torch.inf]
        for j in hard:
            below = [m for m in range(8) if m not in hard or teacher[i, m] <= teacher[i, j]]
            want.append(torch.logsumexp(s[i, below] / 0.7, 0) - s[i, j] / 0.7)
    assert torch.allclose(f(s, teacher), torch.stack(want).mean())
    assert torch.allclose(f(s, teacher), losses.PartialRanking(0.7, least=-5.0)(s, torch.where(teacher >= -0.5, 10 * teacher, -torch.inf)))
    first = F.one_hot(torch.tensor([3, 0, 5, 7]), 8).bool()
    only = torch.where(first, 1.0, -torch.inf)
    assert torch.allclose(losses.PartialRanking(0.7)(s, only), F.cross_entropy(s / 0.7, torch.tensor([3, 0, 5, 7])))


def test_centroid_triplet_is_its_definition():
    x, labels = some(9, 4), torch.tensor([5, 5, 5, 1, 1, 8, 2, 2, 2])
    want = []
    for i in range(9):
        mates = [j for j in range(9) if j != i and labels[j] == labels[i]]
        if mates:
            far = min((x[i] - x[labels == c].mean(0)).square().sum() for c in labels.unique() if c != labels[i])
            want.append(((x[i] - x[mates].mean(0)).square().sum() - far + 0.3).clamp_min(0))
    assert torch.allclose(losses.CentroidTriplet(0.3)(x, labels), torch.stack(want).mean())
    assert losses.CentroidTriplet()(x, torch.zeros(9)).item() == 0 and losses.CentroidTriplet()(x, torch.arange(9)).item() == 0


def test_gradients():
    s, x = some(3, 6).requires_grad_(), some(6, 4).requires_grad_()
    positive, teacher = torch.rand(3, 6, generator=G) < 0.4, some(3, 6)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    for f in (losses.DecoupledSoftmax(0.4), losses.SoftTopK(2, 0.4)):
        assert torch.autograd.gradcheck(lambda s, f=f: f(s, positive), (s,))
    assert torch.autograd.gradcheck(lambda s: losses.PartialRanking(0.4, 0.0)(s, teacher), (s,))
    assert torch.autograd.gradcheck(lambda x: losses.CentroidTriplet(2.0)(x, labels), (x,))


def test_matryoshka_cuts():
    a, b = some(5, 8), some(5, 8)

    def inner(a, b, factor=1.0):
        return factor * (a * b).sum()

    f = losses.Matryoshka(inner, (2, 8), (3, 1), normalize=False)
    assert torch.allclose(f(a, b, factor=2.0), 2 * (3 * (a[:, :2] * b[:, :2]).sum() + (a * b).sum()) / 4)
    assert torch.allclose(losses.Matryoshka(inner, (3,))(a, b), inner(F.normalize(a[:, :3], dim=1), F.normalize(b[:, :3], dim=1)))
    for bad in [lambda: losses.Matryoshka(inner, ()), lambda: losses.Matryoshka(inner, (2,), (1, 2)),
                lambda: losses.Matryoshka(inner, (9,))(a, b)]:
        with pytest.raises(InputError):
            bad()
    shared, own = losses.MatryoshkaHead((2, 8), 5), losses.MatryoshkaHead((2, 8), 5, shared=False)
    x = a.float()
    assert torch.allclose(shared(x)[1], shared.heads[0](x)) and len(list(shared.parameters())) == 2
    assert torch.allclose(own(x)[0], own.heads[0](x[:, :2])) and len(list(own.parameters())) == 4


@pytest.mark.parametrize("d", [1, 2, 7, 384])
def test_simplex_is_regular(d):
    corners = losses.Simplex(d).corners.double()
    assert torch.allclose(corners @ corners.T, torch.eye(d + 1, dtype=torch.float64) * (1 + 1 / d) - 1 / d, atol=1e-6)
    assert losses.Simplex(d)(some(3, d)).shape == (3, d + 1) and not list(losses.Simplex(d).parameters())


def test_what_they_are_for():
    """A linear encoder of noisy views: trained with widths, the first 4 of 24 columns find more than those of one trained without."""
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((24, 48))
    z = rng.standard_normal((600, 24)) * np.geomspace(3, 0.3, 24)
    views = [torch.from_numpy((z + 0.3 * rng.standard_normal(z.shape)) @ mix).float() for _ in range(2)]

    def contrast(a, b):
        return F.cross_entropy(a @ b.T / 0.1, torch.arange(len(a)))

    def recall(f, m):
        a, b = (F.normalize(f(v[400:])[:, :m], dim=1) for v in views)
        return ((a @ b.T).argmax(1) == torch.arange(200)).float().mean().item()

    found = {}
    for name, loss in {"plain": losses.Matryoshka(contrast, (24,)), "widths": losses.Matryoshka(contrast, (4, 8, 24))}.items():
        torch.manual_seed(1)
        f = torch.nn.Linear(48, 24)
        optimizer = torch.optim.Adam(f.parameters(), 3e-3)
        for step in range(150):
            rows = torch.arange(step * 64 % 320, step * 64 % 320 + 64)
            optimizer.zero_grad()
            loss(f(views[0][rows]), f(views[1][rows])).backward()
            optimizer.step()
        found[name] = {m: recall(f, m) for m in (4, 24)}
    assert found["widths"][4] > found["plain"][4] + 0.05, found
    assert found["widths"][24] > found["plain"][24] - 0.05, found


def test_errors():
    for f in (losses.DecoupledSoftmax(), losses.SoftTopK(2)):
        with pytest.raises(InputError, match="candidates"):
            f(some(3, 4), torch.ones(3, 5))
    with pytest.raises(InputError, match="teacher"):
        losses.PartialRanking()(some(3, 4), some(4, 3))
