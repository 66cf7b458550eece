"""Inputs made from the statistics of batch norms: they have these statistics, and layers fitted to them do nearly as well."""

import copy

import pytest

from compand.errors import InputError

torch = pytest.importorskip("torch")

from compand.integration import module_fit  # noqa: E402
from compand.integration.batch_norm import fold  # noqa: E402
from compand.integration.synthesis import _moved, synthesise  # noqa: E402

nn = torch.nn


def real(n, seed):
    """Smooth pictures: few colours that belong together."""
    random = torch.Generator().manual_seed(seed)
    x = nn.functional.interpolate(torch.randn(n, 2, 4, 4, generator=random), (16, 16), mode="bilinear")
    mixed = torch.einsum("ck,nkhw->nchw", torch.tensor([[1.0, 0.1], [0.9, -0.1], [0.7, 0.3]]), x)
    return (mixed + 0.05 * torch.randn(n, 3, 16, 16, generator=random)).tanh()


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
                        nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
                        nn.Conv2d(32, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(4),
                        nn.Flatten(), nn.Linear(512, 10))
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.momentum = None  # the mean over all batches
        for seed in range(4):
            net(real(64, seed))
    return net.eval()


def apart(net, x) -> float:
    """How far the statistics at the norms are from those they keep."""
    found = []

    def see(norm, args):
        var, mean = torch.var_mean(args[0], (0, 2, 3))
        found.append(((mean - norm.running_mean).square() / norm.running_var + (var / norm.running_var).sqrt().sub(1).square()).mean())
    hooks = [m.register_forward_pre_hook(see) for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    return float(torch.stack(found).mean())


def test_the_statistics_are_those_of_the_norms(net):
    steps = []
    (x,) = synthesise(net, (3, 16, 16), 8, steps=40, progress=lambda now, total, what: steps.append((now, total)))
    noise = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)).div(2).tanh()
    assert x.shape == (8, 3, 16, 16) and float(x.abs().max()) <= 1
    assert apart(net, x) < 0.3 * apart(net, noise)
    assert steps[0] == (0, 8 * 40) and steps == sorted(steps) and len(steps) == 40
    assert all(p.requires_grad for p in net.parameters()) and all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("swing", [False, True])
def test_the_seed_decides(net, swing):
    one, same, other = (torch.cat(synthesise(net, (3, 16, 16), 6, batch=4, steps=2, seed=s, swing=swing)) for s in (1, 1, 2))
    assert one.shape[0] == 6 and torch.equal(one, same) and not torch.equal(one, other)
    x = torch.cat(synthesise(net, (3, 16, 16), 4, steps=2, bounds=(-2, 0.5), swing=swing))
    assert float(x.min()) >= -2 and float(x.max()) <= 0.5 and float(x.min()) < -1


def test_layers_fitted_to_them_lose_less_than_fitted_to_noise(net):
    held = real(128, 99)
    want = net(held).detach()

    def lost(batches):
        small = copy.deepcopy(net)
        fold(small, small, batches[0])
        module_fit.fit(small, small, batches, lambda name, m: "int:2")
        return float((small(held).detach() - want).square().mean() / want.square().mean())
    made = lost(synthesise(net, (3, 16, 16), 16, steps=40))
    noise = lost([torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0)).div(2).tanh()])
    assert made < 0.9 * noise and lost([real(16, 50)]) < noise


def test_nets_of_one_size_only():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(512, 4)).eval()
    assert [x.shape for x in synthesise(net, (3, 8, 8), 3, steps=3)] == [(3, 3, 8, 8)]
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8)).eval()
    assert [x.shape for x in synthesise(net, (6,), 3, steps=3)] == [(3, 6)]


def test_moved():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    seen = {tuple(_moved(x, (2, 1), torch.Generator().manual_seed(s))[0, 0, :, 0].tolist()) for s in range(20)}
    assert seen == {(0, 4, 8, 12), (4, 0, 4, 8), (4, 8, 12, 8)}


def test_nets_without_norms_are_refused(net):
    with pytest.raises(InputError, match="no batch norm"):
        synthesise(nn.Sequential(nn.Conv2d(3, 4, 3)), (3, 8, 8))
    with pytest.raises(InputError, match="pictures"):
        synthesise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), (3, 8, 8))
