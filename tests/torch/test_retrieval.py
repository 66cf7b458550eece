"""Trained layers for retrieval: residual signs, balanced product codes, the key-value bottleneck."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from compand.errors import InputError  # noqa: E402
from compand.torch.binary import Compatible, ResidualBinary  # noqa: E402
from compand.torch.keyvalue import KeyValue  # noqa: E402
from compand.torch.product import BalancedProduct  # noqa: E402


def learnt(layer, loss, steps=150, rate=0.01):
    optimizer = torch.optim.Adam(layer.parameters(), rate)
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
    return value.item()


def test_residual_signs_are_what_forward_adds_and_learn():
    torch.manual_seed(0)
    x = F.normalize(torch.randn(64, 12), dim=1)
    layer = ResidualBinary(12, 24, loops=2)
    signs = layer.signs(x)
    assert set(signs.unique().tolist()) == {-1, 1} and signs.shape == (64, 3, 24)
    y = F.normalize((signs.float() * torch.tensor([1, 0.5, 0.25])[None, :, None]).sum(1), dim=1)
    assert torch.allclose(layer(x), y, atol=1e-6)
    noisy = F.normalize(x + 0.2 * torch.randn_like(x), dim=1)
    own = torch.arange(64)
    before = F.cross_entropy(layer(noisy) @ layer(x).T / 0.05, own).item()
    assert learnt(layer, lambda: F.cross_entropy(layer(noisy) @ layer(x).T / 0.05, own)) < 0.8 * before
    with pytest.raises(InputError):
        ResidualBinary(0, 8)


def test_compatible_is_two_contrastive_losses_and_leaves_the_old_alone():
    torch.manual_seed(0)
    q, d, old = (F.normalize(torch.randn(6, 5, requires_grad=True), dim=1) for _ in range(3))
    old.retain_grad()
    value = Compatible(0.1, weight=0.5)(q, d, old)
    own = torch.arange(6)
    assert torch.allclose(value, F.cross_entropy(q @ d.T / 0.1, own) + 0.5 * F.cross_entropy(q @ old.T / 0.1, own))
    value.backward()
    assert old.grad is None
    with pytest.raises(InputError):
        Compatible()(q, d, old[:3])


def test_product_codes_balance_and_learn():
    torch.manual_seed(0)
    x = torch.randn(512, 8) * torch.tensor([3.0, 1, 1, 1, 3, 1, 1, 1]) + 1
    layer = BalancedProduct(8, 2, 16)
    layer.start(x)
    use = torch.stack([torch.bincount(part, minlength=16) for part in layer._balanced(layer._distances(x))])
    plain = torch.stack([torch.bincount(part, minlength=16) for part in layer.ids(x).T])
    assert use.float().std(1).mean() < 0.6 * plain.float().std(1).mean() and use.max() <= 2 * 512 / 16
    y, error = layer.eval()(x)
    assert torch.allclose(y, torch.cat([layer.codewords[p][layer.ids(x)[:, p]] for p in range(2)], dim=1), atol=1e-6)
    with torch.no_grad():
        layer.codewords += 0.5 * torch.randn_like(layer.codewords)
    worse = layer(x)[1].item()
    layer.train()
    learnt(layer, lambda: layer(x)[1])
    assert error.item() * 0.8 < layer.eval()(x)[1].item() < worse
    grown = x.clone().requires_grad_()
    layer.train()(grown)[0].square().sum().backward()
    assert grown.grad.abs().sum() > 0
    with pytest.raises(InputError):
        BalancedProduct(9, 2)


def test_values_of_one_class_stay_when_another_is_learnt():
    torch.manual_seed(0)
    middles = 3 * torch.randn(6, 10)
    x, label = torch.cat([m + torch.randn(200, 10) for m in middles]), torch.arange(6).repeat_interleave(200)
    accuracy = {}
    for name, model in (("keys", KeyValue(x, 6, heads=16, k=64, width=4)), ("linear", nn.Linear(10, 6))):
        for c in range(6):  # one class after the other
            own = x[label == c]
            learnt(model, lambda own=own, c=c, m=model: F.cross_entropy(m(own), torch.full((len(own),), c)), rate=0.1)
        accuracy[name] = (model(x).argmax(1) == label).float().mean().item()
    assert accuracy["keys"] > max(0.95, accuracy["linear"] + 0.05)
    with pytest.raises(InputError):
        KeyValue(np.zeros((5, 10)), 2)
