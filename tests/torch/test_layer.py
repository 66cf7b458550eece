"""What a layer trained is what the core stores: the same numbers, bit for bit, and ids that mean what the step returned."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from compand.errors import FitError, InputError, SpecError  # noqa: E402
from compand.torch import CollapseWarning, Quantize, Recipe  # noqa: E402

SPECS = ["vq:64", "vq:32:dim=4", "vq:16+vq:16", "pq:4x4", "pq:2x4+pq:2x4", "center,scale:std:column,fsq:8x8x4", "hadamard,int:4:group=8",
         "sign", "sign:complex=true", "ternary:rule=absmean", "int:4:per=tensor", "int:3:per=column", "table:16", "table:nf4", "lattice:e8",
         "float:e2m1:group=16", "scale:norm:per=row,vq:16", "compand:mu,int:5", "pca:8,vq:16", "sign:4+sign:4+sign:4",
         "nested:2x4x8", "nested:1x2x4:group=8:rule=round", "dynamic:16:dim=4", "vq:16+dynamic:16:dim=8", "pq:3x4", "lowrank:4+int:4",
         "(columns:0:8,vq:16)+(columns:8:8,vq:16)+vq:16", "vq:16:codewords=float16", "compand:power:0.6,int:4", "center,vq:8+vq:8",
         "int:8:per=tensor:pow2=true", "int:5:per=column:pow2=true:sym=false"]


def rows(n=256, d=16, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def train(q, steps=3, d=16):
    for i in range(steps):
        x = rows(seed=i, d=d).requires_grad_()
        out = q(x)
        (out.y.square().mean() + out.loss).backward()
    return x, out


@pytest.mark.parametrize("update", ["ema", "gradient"])
@pytest.mark.parametrize("spec", SPECS)
def test_training_stores_what_it_returned(spec, update):
    q = Quantize(spec, 16, update=update)
    x, out = train(q)
    assert torch.equal(q.decode(out.parts), out.y.detach())
    assert torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0
    assert all(p.grad is not None for name, p in q.named_parameters() if "zero" not in name)
    q.eval()
    found, codec = q(x), q.export()
    assert np.array_equal(codec.decode(codec.encode(x.detach().numpy())), found.y.detach().numpy())
    assert torch.equal(q.decode(q.encode(x)), found.y) and found.loss == 0
    again = q(x)
    assert torch.equal(again.y, found.y)


@pytest.mark.parametrize("estimator", ["straight", "rotation", "clip", "trust", "noise", "diveq", "lsq", "none"])
def test_estimators_give_finite_gradients_even_for_zeros(estimator):
    q = Quantize("vq:8", 4, estimator=estimator, commit=0.0).fit(rows(d=4))
    x = torch.cat([torch.zeros(2, 4), rows(8, 4)]).requires_grad_()
    out = q(x)
    out.y.sum().backward() if out.y.requires_grad else None
    if estimator == "none":
        assert x.grad is None
    else:
        assert torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0
    if estimator not in ("noise", "diveq"):
        assert torch.equal(out.y, q.decode(out.parts))


def test_straight_gradient_is_the_identity_and_rotation_keeps_angles():
    x = rows(64, 4).requires_grad_()
    q = Quantize("vq:16", 4, estimator="straight", commit=0.0).fit(x)
    g = rows(64, 4, seed=9)
    (q(x).y * g).sum().backward()
    assert torch.allclose(x.grad, g)
    x.grad = None
    q = Quantize("vq:16", 4, estimator="rotation", commit=0.0).fit(x)
    out = q(x)
    out.y.backward(out.y.detach())  # the gradient along y turns to lie along x
    cosine = torch.nn.functional.cosine_similarity(x.grad, x.detach(), dim=1)
    assert (cosine > 0.999).all()


def test_evaluation_changes_nothing_and_refuses_before_training():
    q = Quantize("vq:16", 8).eval()
    with pytest.raises(FitError, match="nothing was learnt"):
        q(rows(d=8))
    q.train()
    train(q, d=8)
    q.eval()
    before = {name: a.clone() for name, a in q.state_dict().items()}
    q(rows(d=8, seed=7))
    assert all(torch.equal(a, before[name]) for name, a in q.state_dict().items())


def test_a_restored_layer_goes_on_the_same():
    q = Quantize("vq:16+vq:16", 8)
    train(q, d=8)
    q.eval()
    other = Quantize("vq:16+vq:16", 8)
    other.load_state_dict(q.state_dict())
    x = rows(d=8, seed=5)
    other.eval()
    assert torch.equal(q(x).y, other(x).y)


@pytest.mark.parametrize("drift", [0.0, 0.1, 0.4])
def test_at_the_end_codewords_become_means_of_many_rows_where_the_encoder_has_settled(drift):
    def latents(x, step):
        return x * (1 + drift * torch.tensor([step, -step, 0, 0]) / 20)

    q, batches, held = Quantize("vq:256", 4, seed=1), rows(128 * 160, 4, seed=3).reshape(160, 128, 4), rows(4096, 4, seed=9)
    for step, x in enumerate(batches):
        q(latents(x, step))
    q._learn()
    moving = q.export()
    q.eval()
    now = latents(held, len(batches) - 1).numpy()
    before, after = (float(np.square(codec.decode(codec.encode(now)) - now).mean()) for codec in (moving, q.export()))
    assert after < 0.995 * before if not drift else after == before


def test_moving_average_is_sums_over_counts():
    q = Quantize("vq:4", 2, decay=0.5, revive=0.0).fit(rows(64, 2))
    words, mass = q.export().state()["codebook_"].astype(np.float64), q.statistics("").mass.numpy().copy()
    x = rows(64, 2, seed=3)
    ids = q(x).ids.numpy().ravel()
    q(x)  # takes in what the first step taught
    for k in range(4):
        own = x.numpy()[ids == k].astype(np.float64)
        expected = (0.5 * mass[k] * words[k] + own.sum(0)) / (0.5 * mass[k] + len(own))
        assert np.allclose(q.state_codebook_[k].numpy(), expected, atol=1e-5)


def test_windows_shrink_while_the_rows_move_and_grow_when_they_rest():
    q = Quantize("vq:64", 4).fit(rows(4096, 4))
    for i in range(30):
        q(rows(512, 4, seed=i) + 0.3 * i)  # `follow` takes the mean along, so let the shape turn as well
    moving = float(q.statistics("").window)
    for i in range(200):
        q(rows(512, 4, seed=i) + 9)
    assert moving < 15 and float(q.statistics("").window) > 1.5 * moving


def test_codewords_worth_their_place_are_not_revived():
    crowd, few = rows(2000, 4) * 0.01, rows(8, 4, seed=1) + torch.tensor([50.0, 0, 0, 0])
    q = Quantize("vq:8", 4, seed=1).fit(torch.cat([crowd, few]))
    q.state_codebook_[0] = torch.tensor([50.0, 0, 0, 0])  # chosen by 1 in 250 rows, that are far from all others
    for _ in range(60):
        q(torch.cat([crowd, few]))
    assert (q.state_codebook_[:, 0] > 40).sum() >= 1 and len(q(crowd).ids.unique()) >= 4


def test_dead_codewords_come_back():
    q = Quantize("vq:64", 4, decay=0.5).fit(rows(512, 4) * 0.01)
    x = rows(2048, 4)
    for _ in range(10):
        q(x)
    ids = q(x).ids
    assert len(ids.unique()) >= 60 and q.use[""].dead <= 4


def test_codebook_through_a_linear_map_moves_together():
    q = Quantize("vq:16", 4, through="linear", update="gradient").fit(rows(64, 4))
    optimizer = torch.optim.SGD(q.parameters(), 0.1)
    before = q.export().state()["codebook_"]
    out = q(rows(64, 4, seed=2) + 3)
    out.loss.backward()
    optimizer.step()
    assert (np.abs(q.export().state()["codebook_"] - before).sum(1) > 0).all()


@pytest.mark.parametrize("spec", ["vq:16", "pq:2x3"])
@pytest.mark.parametrize("through", ["linear", "mlp"])
def test_a_frozen_codebook_follows_latents_that_grow(spec, through):
    q = Quantize(spec, 4, through=through)
    for step in range(60):
        spread = 1 + min(step, 40)
        out = q(rows(256, 4, seed=step) * spread + spread)
    assert (out.y - rows(256, 4, seed=59) * spread - spread).square().mean() < 0.45 * spread ** 2
    frozen = q.get_buffer("state_codebook_")
    assert frozen.abs().max() < 8 and not any("state" in name for name, _ in q.named_parameters())
    q.eval()
    x = rows(32, 4) * spread + spread
    assert np.array_equal(q.export().decode(q.export().encode(x.numpy())), q(x).y.detach().numpy())


def test_a_frozen_codebook_follows_latents_that_fall_onto_a_line():
    q = Quantize("vq:64", 4, through="linear")
    along, errors = torch.tensor([1.0, -2.0, 0.5, 1.0]), []
    for step in range(60):
        x = rows(512, 4, seed=step)
        thin = 0.9 ** step  # what is left of the other directions
        x = thin * x + (1 - thin) * x[:, :1] * along
        errors.append(float((q(x).y.detach() - x).square().mean() / x.var(0).mean()))
    assert np.mean(errors[-5:]) < 0.02 and len(q(x).ids.unique()) > 32


def test_frozen_codewords_differ_even_where_rows_are_few():
    for spec, m in (("vq:64", 1), ("pq:2x6", 2)):
        q = Quantize(spec, 4, through="linear").fit(rows(24, 4))
        for book in q.export().state()["codebook_"].reshape(m, 64, -1):
            assert len(np.unique(book, axis=0)) == 64 and np.abs(book).max() < 6


def test_numbers_above_32_bits_are_whole():
    q = Quantize("fsq:65536x65536x1000", 3)
    out = q(rows(64, 3))
    assert out.ids.dtype == torch.int64 and out.ids.max() > 1 << 33
    assert torch.equal(q.decode(out.parts), out.y.detach())


def test_prefixes_train_every_number_of_terms():
    q = Quantize("vq:8+vq:8+vq:8", 4, prefix=True).fit(rows(256, 4))
    x = rows(256, 4)
    assert len({len(q(x).parts) for _ in range(30)}) == 3


def test_axis_shape_and_half_precision():
    q = Quantize("vq:16", 8, axis=1)
    x = torch.randn(2, 8, 5, 3, dtype=torch.bfloat16)
    out = q(x)
    assert out.y.shape == x.shape and out.y.dtype == torch.bfloat16 and out.ids.shape == (30, 1)
    with pytest.raises(InputError, match="8"):
        q(torch.zeros(2, 7, 5))
    with pytest.raises(InputError, match="NaN"):
        q(x * torch.nan)


def test_recipes_refuse_what_they_do_not_know():
    with pytest.raises(SpecError, match="rotation"):
        Recipe(estimator="magic")
    with pytest.raises(SpecError, match="decay"):
        Recipe(decay=1.0)
    with pytest.raises(InputError, match="not both"):
        Quantize("vq:4", 2, Recipe(), decay=0.5)


def test_collapse_is_told_once():
    q = Quantize("vq:64", 8, revive=0.0, decay=0.5).fit(rows(256, 8))
    q._steps = 99
    narrow = rows(64, 8) * torch.tensor([1.0] + [1e-4] * 7)
    with pytest.warns(CollapseWarning, match="dimensions"):
        q(narrow)
    q._steps = 199
    q(narrow)
    q = Quantize("fsq:8x8x4x4", 4)
    x = rows(512, 1) * torch.tensor([1.0, -2.0, 0.5, 1.0])
    q.fit(x)
    q._steps = 99
    with pytest.warns(CollapseWarning, match="1 of its 4 directions"):
        q(x + 0.05 * rows(512, 4, seed=3))
    assert q.report(x + 0.05 * rows(512, 4, seed=3)).carried == 1 and q.fit(rows(512, 4)).report(rows(512, 4)).carried == 4
    q = Quantize("vq:64", 2, revive=0.0, decay=0.5).fit(rows(256, 2))
    with pytest.warns(CollapseWarning, match=r"set revive"):
        for _ in range(200):
            q(rows(4, 2).repeat(16, 1))
