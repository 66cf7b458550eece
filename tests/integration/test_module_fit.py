"""Any module tree: order, shared inputs, convolutions as the rows they multiply, errors fed back, biases that make up for means."""

import numpy as np
import pytest

from compand import Codec
from compand.errors import InputError

torch = pytest.importorskip("torch")

from compand.integration.language_fit import Parts  # noqa: E402
from compand.integration.module_fit import fit, order, rows  # noqa: E402
from compand.integration.module_memory import Memory  # noqa: E402
from compand.integration.module_tune import Tuning  # noqa: E402

nn = torch.nn


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(50, 32)
        self.a, self.b, self.c = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 64)
        self.one, self.conv = nn.Conv1d(64, 64, 3, padding=1), nn.Conv2d(1, 32, (3, 2), stride=2, padding=(1, 0))
        self.deep, self.unused = nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.Linear(32, 32)

    def forward(self, ids):
        x = self.words(ids)
        x = self.c(torch.tanh(self.a(x)) * self.b(x)).relu()
        x = self.one(x.transpose(1, 2)).relu()
        return self.deep(self.conv(x[:, None]).relu()).mean((2, 3))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


def batches(n=4):
    rng = torch.Generator().manual_seed(1)
    return [torch.randint(0, 50, (8, 12), generator=rng) for _ in range(n)]


def test_order_and_shared_inputs(net):
    names = ["deep", "conv", "one", "c", "b", "a", "unused"]
    assert order(net, net, batches()[0], names) == [["a", "b"], ["c"], ["one"], ["conv"], ["deep"]]


@pytest.mark.parametrize("layer", [nn.Linear(6, 5), nn.Conv1d(4, 5, 3, stride=2, padding=1), nn.Conv2d(4, 6, (3, 2), padding=1, dilation=2),
                                   nn.Conv2d(4, 8, 3, groups=2, padding="same"), nn.Conv2d(3, 3, 3, stride=2, groups=3)])
def test_rows_are_what_weights_multiply(layer):
    channels = layer.weight.shape[1] * getattr(layer, "groups", 1)
    x = torch.randn(2, *{nn.Linear: (7, 6), nn.Conv1d: (4, 9), nn.Conv2d: (channels, 9, 8)}[type(layer)])
    r, groups = rows(layer, x), getattr(layer, "groups", 1)
    y = layer(x) - layer.bias.reshape(-1, *[1] * (x.ndim - 2)) if not isinstance(layer, nn.Linear) else layer(x) - layer.bias
    w = layer.weight.reshape(groups, -1, r.shape[1])
    got = torch.einsum("bgmd,god->bgom", r.reshape(2, groups, -1, r.shape[1]), w)
    want = y.reshape(2, groups, -1, got.shape[3]) if not isinstance(layer, nn.Linear) else y.transpose(1, 2)[:, None]
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def test_fit(net):
    before = net(batches()[0]).detach()
    seen = []
    plain = Net().eval()
    plain.load_state_dict(net.state_dict())
    with torch.no_grad():
        for m in plain.modules():
            if getattr(m, "weight", None) is not None:
                w = m.weight.numpy()
                m.weight.copy_(torch.from_numpy(np.array(Codec("int:3").decode(Codec("int:3").encode(w)))))
    found = fit(net, net, batches(), lambda name, m: None if name == "deep" else "int:3", progress=lambda *a: seen.append(a[2]))
    assert sorted(found.codes) == sorted(f"{n}.weight" for n in ("words", "a", "b", "c", "one", "conv", "unused"))
    assert seen == ["words", "unused", "a", "c", "one", "conv", ""]
    assert set(found.biases) == {f"{n}.bias" for n in ("a", "b", "c", "one", "conv")}
    for name, codes in found.codes.items():
        np.testing.assert_array_equal(codes.codec.decode(codes), net.get_parameter(name).detach().numpy())
    lost, rounded = ((m(batches()[0]) - before).square().mean().item() for m in (net, plain))
    assert lost < 0.5 * rounded and lost > 0


def test_nothing_to_do(net):
    with pytest.raises(InputError, match="no linear layer"):
        fit(net, net, batches(), lambda name, m: None)


class Blocks(nn.Module):
    """An encoder and a decoder of blocks, an embedding that is the head too, changes in place."""

    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(40, 32), nn.Linear(32, 40, bias=False)
        self.head.weight = self.words.weight
        self.before, self.after = (nn.ModuleList(nn.Sequential(nn.Linear(32, 32), nn.ReLU(inplace=True)) for _ in range(n)) for n in (3, 2))
        self.runs = {}

    def forward(self, ids):
        x = y = self.words(ids)
        for block in self.before:
            x = block(x)
            x += y
        for block in self.after:
            y = y + block(x + y)
        return self.head(y)


def test_what_is_finished_is_not_computed_again():
    torch.manual_seed(0)
    net, other = Blocks().eval(), Blocks().eval()
    other.load_state_dict(net.state_dict())
    data = [b % 40 for b in batches()]
    calls = []
    net.before[0][0].register_forward_hook(lambda *_: calls.append(0))
    found = fit(net, net, data, lambda name, m: "int:4")
    assert len(calls) < 5 * len(data) and not any("forward" in m.__dict__ for m in net.modules())  # three passes and the outputs
    assert found.codes["words.weight"] is found.codes["head.weight"] and net.words.weight is net.head.weight
    assert len(found.codes) == 2 + 5 and found.lost["head.weight"] < 0.1

    def again(batch):  # with nothing that could be remembered, as every layer is called twice
        other(batch)
        return other(batch)

    for name, codes in fit(other, again, data, lambda name, m: "int:4").codes.items():
        np.testing.assert_array_equal(codes.codec.decode(codes), found.codes[name].codec.decode(found.codes[name]))


def test_what_nothing_reads_is_let_go():
    torch.manual_seed(0)
    net = Blocks().eval()
    memory = Memory(net, net, [b % 40 for b in batches()], [f"{side}.{i}.0" for side, n in (("before", 3), ("after", 2)) for i in range(n)])
    with torch.no_grad(), memory:
        for name in ("before.0", "before.1", "before.2", "after.0", "after.1"):
            memory.finished([f"{name}.0"])
        held = [n for n, x in memory.kept.items() if torch.isfinite(x[-1]).all()]
        assert len(memory.kept) == 5 and held == ["after.0", "after.1"]  # whose sum the head reads
        line = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
        data = [torch.randn(4, 8) for _ in range(2)]
        want = line(data[1])
        with Memory(line, line, data, ["0", "1", "2"]) as own:
            own.finished(["0"]), own.finished(["1"])
            assert [bool(torch.isfinite(own.kept[n][-1]).all()) for n in "01"] == [False, True]
            own.at = 1
            torch.testing.assert_close(line(torch.zeros(4, 8)), want)
        torch.testing.assert_close(line(data[1]), want)


def tuning(net, given, **words):
    with torch.no_grad():
        wanted = [net(b) for b in given]

    def loss(numbers):
        return sum((net(given[i]) - wanted[i]).square().mean() / wanted[i].square().mean() for i in numbers.tolist()) / len(numbers)
    return Tuning(loss, len(given), rate=3e-3, batch=2, **words)


def twin(net):
    other = type(net)().eval()
    other.load_state_dict(net.state_dict())
    return other


class Tied(Blocks):
    """The same with gradients: nothing changes in place."""

    def forward(self, ids):
        x = y = self.words(ids)
        for block in self.before:
            x = block(x) + y
        for block in self.after:
            y = y + block(x + y)
        return self.head(y)


@pytest.mark.parametrize("kind", [Net, Tied])
def test_tuned_while_it_is_coded(kind):
    torch.manual_seed(0)
    net = kind().eval()
    given, fresh = ([b % 40 for b in some] for some in (batches(24), batches(26)[24:]))
    before, plain, losses = [net(b).detach() for b in fresh], twin(net), {}
    for one, how in ((plain, None), (net, tuning(net, given, sections=3, each=24, last=48))):
        found = fit(one, one, given, lambda name, m: None if name == "deep" else "int:2", tuning=how)
        losses[how is None] = sum(float((one(b).detach() - y).square().mean()) for b, y in zip(fresh, before, strict=True))
        for name, codes in found.codes.items():
            np.testing.assert_array_equal(codes.codec.decode(codes), one.get_parameter(name).detach().numpy())
        for name, x in found.biases.items():
            np.testing.assert_array_equal(x, one.get_parameter(name).detach().numpy())
    assert losses[False] < 0.8 * losses[True] and len(found.losses) == 2 * 24 + 48
    assert set(found.codes) | set(found.biases) == {n for n, _ in net.named_parameters(remove_duplicate=False)}


@pytest.mark.parametrize("tuned", [False, True])
def test_a_stopped_run_goes_on_to_the_same_codes(net, tmp_path, tuned):
    given, first = batches(8), twin(net)

    def run(net, parts=None, progress=None):
        return fit(net, net, given, lambda name, m: "int:3", parts=parts, progress=progress,
                   tuning=tuning(net, given, sections=3, each=4, last=4) if tuned else None)

    class Killed(Exception):
        pass

    def stop(at):
        def progress(done, total, what):
            assert done <= total
            if done >= at:
                raise Killed
        return progress

    whole = run(first)
    for at in (2, 5, 8, 13, 17) if tuned else (1, 3, 6):
        with pytest.raises(Killed), Parts(tmp_path / "parts", {}) as parts:
            run(twin(net), parts, stop(at))
    with Parts(tmp_path / "parts", {}) as parts:
        found = run(last := twin(net), parts)
    for name, codes in whole.codes.items():
        np.testing.assert_array_equal(codes.codec.decode(codes), found.codes[name].codec.decode(found.codes[name]))
    assert sorted(whole.codes) == sorted(found.codes) and whole.lost == found.lost and whole.losses == found.losses
    for (name, a), b in zip(first.named_parameters(), last.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)
