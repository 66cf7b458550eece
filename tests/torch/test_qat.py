"""prepare → train → convert: the numbers stay the same, bit for bit, into the file and out of it."""

from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")


from torch import nn  # noqa: E402

from compand.errors import InputError  # noqa: E402
from compand.torch import QueryKey, Recipe, convert, fade, load, prepare, save, switch  # noqa: E402


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))


def task(seed=1, n=512):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 16, generator=generator)
    return x, torch.stack([x[:, :4].sum(1), x[:, 4:8].prod(1), x[:, 8].abs(), x[:, 9] * x[:, 10]], 1)


def train(net, steps=150, lr=3e-3, each=lambda progress: None):
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr)
    x, y = task()
    net.train()
    for step in range(steps):
        each((step + 1) / steps)
        loss = (net(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


KINDS = {"int": ("int:4:group=16", None, None), "bitnet": ("ternary:rule=absmean", "int:8:search=absmax", None),
         "lsq": ("int:4:per=tensor", None, Recipe(estimator="lsq", update="gradient", commit=0.0, codebook=0.0)),
         "quest": ("hadamard,int:4", "hadamard,int:8", Recipe(estimator="trust", update="gradient", commit=0.0, codebook=0.0)),
         "vq": ("vq:16:dim=2", None, Recipe(estimator="straight", commit=0.0)), "nf4": ("table:nf4:group=16", None, None),
         "residual": ("sign+sign", None, None),
         "binary point": ("int:4:per=tensor:pow2=true", None, None),
         "double rounding": ("nested:2x4", None, Recipe(prefix=True, commit=0.0)),
         "power": ("compand:power:0.7,int:4", None, Recipe(estimator="straight", update="gradient", commit=0, exponent=True)),
         "annealed": ("int:3", None, Recipe(estimator="straight", update="gradient", commit=0.1, anneal=0.2))}


@pytest.mark.parametrize("kind", KINDS)
def test_converted_computes_what_was_trained(kind, tmp_path):
    weights, activations, recipe = KINDS[kind]
    net = prepare(model(), weights, activations=activations, **({"recipe": recipe} if recipe else {}))
    train(net, 5)
    x, _ = task(2)
    net.eval()
    with torch.no_grad():
        expected = net(x)
        convert(net)
        assert torch.equal(net(x), expected)
    if activations is None:
        save(net, tmp_path / "net.cpd")
        with torch.no_grad():
            assert torch.equal(load(model(3), tmp_path / "net.cpd")(x), expected)


def test_training_with_the_quantizer_beats_quantizing_after():
    plain = model()
    train(plain)
    x, y = task()
    with torch.no_grad():
        after = float((convert(prepare(plain, "int:2:group=16"))(x) - y).square().mean())
    net = prepare(model(), "int:2:group=16")
    train(net)
    with torch.no_grad():
        during = float((convert(net)(x) - y).square().mean())
    assert during < 0.8 * after


def test_the_file_is_as_small_as_its_codes(tmp_path):
    net = convert(prepare(nn.Sequential(nn.Linear(1024, 512, bias=False)), "int:4:group=64"))
    assert save(net, tmp_path / "net.cpd") < 1024 * 512 * 4.35 / 8
    with pytest.raises(InputError, match="convert"):
        save(model(), tmp_path / "plain.cpd")


def test_chosen_layers_only():
    net = prepare(model(), "int:4", where=lambda name, m: name == "2")
    assert not hasattr(net[0], "parametrizations") and hasattr(net[2], "parametrizations")
    with pytest.raises(InputError, match="no layer"):
        prepare(model(), where=lambda name, m: False)


@pytest.mark.parametrize("kind", ["merged", "beside"])
def test_branches_train_what_stays_quantized(kind, tmp_path):
    """LoRA over a held weight, quantized with it (EfficientDM) or beside it (LQ-LoRA): the held weight does not move."""
    plain = model()
    train(plain)
    x, y = task()
    with torch.no_grad():
        after = float((convert(prepare(model_like(plain), "int:2:group=16"))(x) - y).square().mean())
    net = prepare(model_like(plain), "int:2:group=16", branch=kind, rank=4)
    held = net[0].parametrizations.weight.original.clone()
    train(net)
    assert torch.equal(net[0].parametrizations.weight.original, held)
    net.eval()
    with torch.no_grad():
        expected = net(x)
        convert(net)
        assert torch.equal(net(x), expected) and float((expected - y).square().mean()) < 0.7 * after
        save(net, tmp_path / "net.cpd")
        assert torch.equal(load(model(3), tmp_path / "net.cpd")(x), expected)


def model_like(net):
    other = model(7)
    other.load_state_dict(net.state_dict())
    return other


def test_split_of_lq_lora_beats_one_decomposition():
    from compand import Codec
    from compand.torch.branch import split, truncated

    w = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    codec = Codec("int:2:group=32")

    def quantize(a):
        return torch.from_numpy(codec.decode(codec.encode(a.numpy())))

    once = truncated(w - quantize(w), 8)
    up, down = split(w, 8, quantize)
    errors = [float((w - quantize(w - a @ b) - a @ b).square().sum()) for a, b in [(up, down)]]
    assert errors[0] < 0.98 * float((w - quantize(w) - once[0] @ once[1]).square().sum())


def test_a_fading_branch_leaves_codes_alone():
    """QVGen's rank decay: rank falls by halves to nothing, and what is left computes what was trained."""
    net, ranks = prepare(model(), "ternary:rule=absmean", branch="fading", rank=8), []
    branch = net[0].parametrizations.weight[0].branch
    with pytest.raises(InputError, match="fading"):
        convert(net)

    def each(progress):
        fade(net, progress)
        ranks.append(branch.rank)

    first = branch.after(torch.zeros(32, 16))
    fade(net, 0.0)
    assert torch.allclose(branch.after(torch.zeros(32, 16)), first, atol=1e-5)
    loss = train(net, 150, each=each)
    assert set(ranks) >= {8, 4, 2, 1, 0} and ranks == sorted(ranks, reverse=True)
    x, y = task()
    net.eval()
    with torch.no_grad():
        expected = net(x)
        assert torch.equal(convert(net)(x), expected)
    assert float((expected - y).square().mean()) < 2 * loss + 0.2


def test_one_set_of_weights_switches_its_bits(tmp_path):
    net = prepare(model(), "nested:2x4x8:group=16", recipe=Recipe(estimator="straight", update="gradient", commit=0.0, prefix=True))
    train(net, 200)
    x, y = task()
    net.eval()
    with torch.no_grad():
        expected = [switch(net, terms)(x).clone() for terms in (1, 2, 3)]
        errors = [float((e - y).square().mean()) for e in expected]
        assert errors[0] < 1.2 * errors[2] + 0.3 and len({e.sum().item() for e in expected}) == 3
        switch(net, None)
        convert(net)
        save(net, tmp_path / "net.cpd")
        other = load(model(3), tmp_path / "net.cpd")
        for terms, e in zip((1, 2, 3, None), [*expected, expected[-1]], strict=True):
            assert torch.equal(switch(net, terms)(x), e) and torch.equal(switch(other, terms)(x), e)


def test_annealing_calms_oscillation():
    """Weights near a border jump between two levels with a learnt step; the confident ones are held, so that fewer jump."""
    def jumps(anneal):
        recipe = Recipe(estimator="lsq", update="gradient", commit=0.0, codebook=0.0)
        net = prepare(model(), "int:3:per=tensor", recipe=recipe)
        train(net, 120)
        quantize = net[2].parametrizations.weight[0].quantize
        quantize.recipe = Recipe(estimator="lsq", update="gradient", commit=0.0, codebook=0.0, anneal=anneal)
        seen = []
        train(net, 60, 1e-2, lambda progress: seen.append(quantize.eval()(net[2].parametrizations.weight.original).ids.clone())
              or quantize.train())
        return sum(int((a != b).sum()) for a, b in pairwise(seen))

    assert jumps(0.02) < 0.7 * jumps(0.0)


class Attention(nn.Module):
    def __init__(self, d, heads, spec):
        super().__init__()
        torch.manual_seed(0)
        self.scores = QueryKey(nn.Linear(d, d), nn.Linear(d, d), heads, spec)
        self.value = nn.Linear(d, d)

    def forward(self, x):
        return self.scores(x).softmax(-1).mean(-3) @ self.value(x)


def test_query_and_key_are_quantized_as_one(tmp_path):
    model, x = Attention(12, 3, "int:3"), torch.randn(4, 7, 12)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    first = None
    for _ in range(30):
        loss = (model(x) - x).square().mean()
        first = first or float(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        assert model.scores.query.grad.abs().sum() > 0 and model.scores.key.grad.abs().sum() > 0
        optimizer.step()
    assert float(loss.detach()) < 0.8 * first
    trained = model.eval()(x)
    convert(model)
    assert torch.equal(model(x), trained) and model.scores.weight.unique().numel() <= 8 * 3 * 13
    save(model, tmp_path / "a.cpd")
    again = load(Attention(12, 3, "int:3"), tmp_path / "a.cpd")
    assert torch.equal(again(x), trained)
    with pytest.raises(InputError, match="heads"):
        QueryKey(nn.Linear(8, 9), nn.Linear(8, 9), 2)
