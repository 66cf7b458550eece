"""Layers on codes of their inputs: each remedy for outliers lowers the error, transforms move to the weights, attention on codes."""

import copy

import numpy as np
import pytest

from compand import Codec
from compand.errors import InputError

torch = pytest.importorskip("torch")

from compand.integration.activation_fit import coded, in_domain, quantize  # noqa: E402
from compand.torch.activation import CodedInputs, condition  # noqa: E402

nn = torch.nn


@pytest.fixture
def subject():
    """A net whose inputs have outliers in two channels, and batches."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32, bias=False)).eval()
    data = [torch.randn(64, 64) for _ in range(4)]
    with torch.no_grad():
        net[0].weight[:, [5, 40]] *= 0.05
    for d in data:
        d[:, [5, 40]] *= 20
    return net, data


def lost(subject, inputs, weights):
    net, data = subject
    own = copy.deepcopy(net)
    assert quantize(own, own, data, lambda *_: (inputs, weights)) == ["0", "2"]
    assert isinstance(own[0], CodedInputs) and own[0].weights.n == 128
    before = net(data[1]).detach()
    return float((own(data[1]) - before).square().mean() / before.square().mean())


def test_remedies(subject):
    w8a8, w4a4 = lost(subject, "int:8:search=absmax", "int:8"), lost(subject, "int:4", "int:4")
    assert w8a8 < 0.01 < w4a4
    assert lost(subject, "smooth:0.5,int:4", "int:4") < 0.5 * w4a4
    assert lost(subject, "hadamard,int:4", "int:4") < 0.5 * w4a4
    assert lost(subject, "permute,int:4:group=16", "int:4:group=16") < 0.7 * w4a4
    tensor = lost(subject, "int:4:per=tensor", "int:8")
    assert lost(subject, "scale:absmax:column,int:4:per=tensor", "int:8") < 0.7 * tensor


@pytest.mark.parametrize("transforms", ["hadamard", "smooth:0.3", "permute", "scale:absmax:column", "center,hadamard"])
def test_transforms_move_to_the_weights(subject, transforms):
    net, data = subject
    x = torch.cat(data).numpy()
    codec = Codec(f"{transforms},int:12:search=absmax").fit(x)
    layer = coded(net[0], x, f"{transforms},int:12:search=absmax", "int:12")
    np.testing.assert_allclose(layer(data[0]).numpy(), net[0](data[0]).detach().numpy(), atol=0.05)
    turned, shift = in_domain(codec, net[0].weight.detach().numpy())
    y = x
    for t in codec.stage.transforms:
        y = np.asarray(t.forward(y)[0], np.float32)
    np.testing.assert_allclose(y @ turned.T + shift, x @ net[0].weight.detach().numpy().T, atol=1e-3)


def test_means_stay(subject):
    net, data = subject
    x = torch.cat(data) + 1
    with_, without = (coded(net[0], x.numpy(), "int:3", "int:3", correct=c) for c in (True, False))
    want = net[0](x).detach()
    off = [float((layer(x) - want).mean(0).abs().max()) for layer in (with_, without)]
    assert off[0] < 1e-3 < off[1]


def test_refused(subject):
    net, data = subject
    with pytest.raises(InputError, match="no linear layer"):
        quantize(net, net, data, lambda *_: None)
    with pytest.raises(InputError, match="not linear"):
        coded(net[0], data[0].numpy(), "compand:power,int:4", "int:4")
    with pytest.raises(InputError, match="side information"):
        coded(net[0], data[0].numpy(), "scale:rms:row,int:4", "int:4")


def test_attention_on_codes():
    transformers = pytest.importorskip("transformers", reason="compand[hf] is not installed")
    from compand.integration.attention_codes import CodedAttention

    config = transformers.LlamaConfig(vocab_size=50, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                                      num_key_value_heads=2)
    torch.manual_seed(0)
    net = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(3) if p.ndim > 1 else p
    batches = [torch.randint(0, 50, (2, 12)) for _ in range(2)]

    def logits(model):
        with torch.no_grad():
            return model(batches[0], use_cache=False).logits

    before, away = logits(net), {}
    for name, specs in {"8": {"keys": "int:8", "values": "int:8", "queries": "int:8"}, "4": {"keys": "int:4", "values": "int:4"},
                        "softmax": {"probabilities": "int:4:per=tensor:sym=false"},
                        "log": {"probabilities": "compand:log-sqrt2,int:4:per=tensor:sym=false"}}.items():
        own = copy.deepcopy(net)
        CodedAttention(own, **specs).fit(lambda b, own=own: own(b, use_cache=False), batches)
        away[name] = float((logits(own) - before).square().mean())
    assert 0 < away["8"] < 0.05 * away["4"] and 0 < away["log"] and 0 < away["softmax"]
    own = copy.deepcopy(net)
    CodedAttention(own, keys="int:16:scales=float32:search=absmax")
    torch.testing.assert_close(logits(own), before, atol=1e-2, rtol=1e-2)
    with pytest.raises(InputError, match="no place"):
        CodedAttention(own, heads="int:8")


def test_scales_by_condition(subject):
    net, data = copy.deepcopy(subject[0]), [torch.randn(64, 64) * (0.05 if i % 2 else 1.0) for i in range(6)]
    one, table = copy.deepcopy(net), copy.deepcopy(net)
    quantize(one, one, data, lambda *_: ("hadamard,int:4:per=tensor", "int:8"))
    quantize(table, table, data, lambda *_: ("hadamard,int:4:per=tensor", "int:8"), conditions=[0, 1] * 3)
    assert len(table[0].table) == 2 and len(one[0].table) == 1
    lost = {}
    for at, x in enumerate(data[2:4]):
        condition(table, at)
        y = net(x).detach()
        lost[at] = [float((m(x) - y).square().mean() / y.square().mean()) for m in (one, table)]
    assert lost[1][1] < 0.1 * lost[1][0] and lost[0][1] < 1.5 * lost[0][0]
    with pytest.raises(InputError, match="condition 2"):
        condition(table, 2)
    for wrong in ([0, 1], [0, 2] * 3, []):
        with pytest.raises(InputError, match="conditions"):
            quantize(net, net, data, lambda *_: ("int:4:per=tensor", "int:8"), conditions=wrong)


def test_first_tokens_stay():
    torch.manual_seed(0)
    net, data = nn.Sequential(nn.Linear(64, 32)).eval(), [torch.randn(8, 20, 64) for _ in range(4)]
    for x in data:
        x[:, 0] *= 300  # as the first token of a language model has
    coded_, kept = copy.deepcopy(net), copy.deepcopy(net)
    quantize(coded_, coded_, data, lambda *_: ("int:8:per=tensor", "int:8"))
    quantize(kept, kept, data, lambda *_: ("int:8:per=tensor", "int:8"), first=1)
    y = net(data[0]).detach()
    lost = [float((m(data[0]) - y)[:, 1:].square().mean() / y[:, 1:].square().mean()) for m in (coded_, kept)]
    assert lost[1] < 0.01 < lost[0]
    assert float((kept(data[0]) - y)[:, 0].square().mean() / y[:, 0].square().mean()) < 1e-3
