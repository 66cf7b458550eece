"""Models of transformers whose layers run natively: the same answers as those of transformers."""

import copy
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from compand import _native  # noqa: E402
from compand.hf import CodedLinear, CompandConfig, run_natively  # noqa: E402

SIZES = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": None,
         "pad_token_id": 0}
FAMILIES = {"Llama": {"attention_bias": True, "mlp_bias": True}, "Mistral": {"sliding_window": 5}, "Qwen2": {}, "Qwen3": {}, "Gemma": {},
            "Gemma2": {"sliding_window": 5, "query_pre_attn_scalar": 32}, "Gemma3Text": {"sliding_window": 5, "sliding_window_pattern": 2}}
IDS = torch.from_numpy(np.random.default_rng(0).integers(3, 90, (2, 12)))
MASK = torch.ones_like(IDS)
MASK[0, :3] = 0  # padding on the left


def make(family="Llama", **more):
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **FAMILIES[family], **more})
    torch.manual_seed(0)
    model = getattr(transformers, f"{family.removesuffix('Text')}ForCausalLM")(config).eval()
    for _, p in model.named_parameters():
        if p.ndim == 1:  # norms and biases that matter
            p.data += torch.randn_like(p) * 0.3
    return model


def both(model, run):
    """What a function gives without native layers and with them, and how many passes were native."""
    run_natively(model, False)
    with torch.no_grad():
        plain = run(model)
        assert run_natively(model)
        return plain, run(model), model.get_decoder().forward.passes


@pytest.mark.parametrize("family", FAMILIES)
def test_float_layers_give_the_same(family):
    model = make(family)

    def run(m):
        cached = m(IDS[:, :7], attention_mask=MASK[:, :7], use_cache=True)
        name = "cache" if "cache" in cached else "past_key_values"  # by the version of transformers
        after = m(IDS[:, 7:], attention_mask=MASK, **{name: cached[name]})
        return [m(IDS).logits, m(IDS, attention_mask=MASK).logits[:, 3:], m(IDS, attention_mask=MASK, use_cache=False).logits[:, 3:],
                after.logits, m(inputs_embeds=m.get_input_embeddings()(IDS)).logits]

    plain, ours, passes = both(model, run)
    assert passes == 6
    for a, b in zip(plain, ours, strict=True):
        assert float((a - b).abs().max()) < 2e-5 * float(a.std())
    assert float((ours[1][:, 4:] - ours[3]).abs().max()) < 2e-5


@pytest.mark.parametrize("how", [{}, {"num_beams": 3}, {"cache_implementation": "static"}, {"use_cache": False},
                                 {"num_beams": 2, "num_return_sequences": 2}], ids=str)
@pytest.mark.parametrize("family", ["Llama", "Mistral", "Gemma3Text"])
def test_generate(family, how):
    def run(m):
        out = m.generate(IDS, attention_mask=MASK, max_new_tokens=9, do_sample=False, output_logits=True, return_dict_in_generate=True,
                         **how)
        return out.sequences, torch.stack(out.logits)

    (ids, plain), (again, ours), passes = both(make(family), run)
    assert passes >= 8 and torch.equal(ids, again)
    assert float((plain - ours).abs().max()) < 2e-5 * float(plain.std())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_coded_layers(dtype, tmp_path):
    make("Gemma3Text").save_pretrained(tmp_path)
    config = CompandConfig(spec="int:8:group=32")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype, quantization_config=config)
    plain, ours, passes = both(model, lambda m: m(IDS, attention_mask=MASK).logits[:, 3:].float())
    exact = make("Gemma3Text")(IDS, attention_mask=MASK).logits[:, 3:].detach()
    assert passes == 1 and ours.dtype == torch.float32
    assert float((plain - ours).std()) < (0.01 if dtype == torch.float32 else 0.05) * float(plain.std())
    assert float((ours - exact).std()) < 1.1 * float((plain - exact).std())  # not worse than without
    with torch.no_grad():
        for threads in (1, 2, 3):
            _native.set_threads(threads)
            assert torch.equal(model(IDS, attention_mask=MASK).logits[:, 3:].float(), ours)
    _native.set_threads(0)


def test_everything_else_takes_the_other_path(tmp_path):
    model = make()
    run_natively(model)
    forward = model.model.forward
    holes = MASK.clone()
    holes[1, 4] = 0
    packed = torch.arange(6).repeat(2)[None].expand(2, -1)

    def stays(run, **given):
        before = forward.passes
        with torch.no_grad():
            run(IDS, **given)
        return forward.passes == before

    assert not stays(model)
    for given in ({"attention_mask": holes}, {"position_ids": packed}, {"attention_mask": torch.zeros(2, 1, 12, 12)}):
        assert stays(model, **given), given
    before = forward.passes
    model(IDS)  # gradients
    assert forward.passes == before
    assert stays(model.train())
    model.eval()
    assert not stays(model)
    hook = model.model.layers[1].mlp.register_forward_hook(lambda *_: None)
    assert stays(model)
    hook.remove()
    assert not stays(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert stays(model)
    assert stays(model, output_hidden_states=True)
    assert stays(model)  # that left hooks in the layers
    run_natively(model, False)
    assert "forward" not in model.model.__dict__


def test_a_changed_model_is_seen():
    model = make("Gemma3Text")  # whose norms are not used as they are
    run_natively(model)
    first = model.model.layers[0]

    def scale(t, by):
        with torch.no_grad():
            t.mul_(by)

    changes = [lambda: None, lambda: scale(first.input_layernorm.weight, 2), lambda: scale(first.mlp.down_proj.weight, 0.5),
               lambda: setattr(first.mlp, "up_proj", CodedLinear.of(first.mlp.up_proj, "int:8")),
               lambda: setattr(model.model.norm, "weight", torch.nn.Parameter(torch.full((64,), 0.5))), lambda: model.to(torch.bfloat16),
               lambda: model.load_state_dict({k: v.flip(0) if v.ndim == 1 else v for k, v in model.state_dict().items()})]
    before = None
    for i, change in enumerate(changes):
        change()
        with torch.no_grad():
            plain = type(model.model).forward(model.model, IDS).last_hidden_state.float()
            ours = model.model(IDS).last_hidden_state.float()
        assert model.model.forward.passes == i + 1
        assert float((plain - ours).std()) < (0.05 if model.dtype == torch.bfloat16 else 0.01) * float(plain.std()), i
        assert before is None or float((ours - before).abs().max()) > 1e-3, i
        before = ours


def test_copies_and_pickles_have_forwards_of_their_own():
    model = make()
    run_natively(model)
    with torch.no_grad():
        y = model(IDS).logits
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert other.model.forward.model is other.model
            other.model.norm.weight.data.mul_(2)
            assert torch.equal(model(IDS).logits, y) and not torch.allclose(other(IDS).logits, y)


def encoder(family="Bert", **more):
    sizes = {"vocab_size": 97, "hidden_size": 72, "intermediate_size": 176, "num_hidden_layers": 3, "num_attention_heads": 4,
             "max_position_embeddings": 64, "pad_token_id": 0}
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**{**sizes, **more})).eval()
    for _, p in model.named_parameters():
        if p.ndim == 1:
            p.data += torch.randn_like(p) * 0.3
    return model


SENTENCES = torch.from_numpy(np.random.default_rng(1).integers(3, 90, (9, 31)))
SEEN = torch.ones_like(SENTENCES)
SEEN[0, 20:] = SEEN[3, 1:] = SEEN[4, 3:9] = SEEN[5] = 0


@pytest.mark.parametrize("more", [{}, {"hidden_act": "gelu_new"}, {"attn_implementation": "eager"}], ids=str)
@pytest.mark.parametrize("family", ["Bert", "Roberta", "XLMRoberta"])
def test_float_encoders_give_the_same(family, more):
    model = encoder(family, **more)
    with torch.no_grad():
        plain = model(SENTENCES, attention_mask=SEEN), model(input_ids=SENTENCES[:1])
        assert run_natively(model)
        ours = model(SENTENCES, attention_mask=SEEN), model(input_ids=SENTENCES[:1])
    assert model.forward.passes == 2
    seen = SEEN.bool()
    assert float((plain[0].last_hidden_state - ours[0].last_hidden_state)[seen].abs().max()) < 1e-5
    assert not ours[0].last_hidden_state[~seen].any()
    used = SEEN[:, 0].bool()
    assert float((plain[0].pooler_output - ours[0].pooler_output)[used].abs().max()) < 1e-5
    assert float((plain[1].last_hidden_state - ours[1].last_hidden_state).abs().max()) < 1e-5


def test_other_encoders_take_the_other_path():
    model = encoder()
    run_natively(model)
    with torch.no_grad():
        for given in ({"output_attentions": True}, {"attention_mask": torch.ones(9, 1, 31, 31)}, {"return_dict": False}):
            model(SENTENCES, **given)
        model.train()(SENTENCES)
    model.eval()(SENTENCES)  # gradients
    assert model.forward.passes == 0
    for other in (encoder(hidden_act="relu"), encoder(is_decoder=True)):
        run_natively(other)
        with torch.no_grad():
            other(SENTENCES)
        assert other.forward.passes == 0


@pytest.mark.parametrize("spec", ["hadamard,int:4:group=72", "center,permute,int:8"])  # the second runs through Python
def test_coded_encoders(spec):
    model = encoder()
    for name, module in list(model.encoder.named_modules()):
        if isinstance(module, torch.nn.Linear):
            model.encoder.set_submodule(name, CodedLinear.of(module, spec))
    with torch.no_grad():
        plain = model(SENTENCES, attention_mask=SEEN).last_hidden_state[SEEN.bool()]
        run_natively(model)
        found = []
        for threads in (1, 2, 5):
            _native.set_threads(threads)
            found.append(model(SENTENCES, attention_mask=SEEN).last_hidden_state[SEEN.bool()])
        _native.set_threads(0)
        alone = model(SENTENCES[7:8]).last_hidden_state[0]
    assert model.forward.passes == 4 and float((plain - found[0]).std()) < 0.02 * float(plain.std())
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    if spec.startswith("hadamard"):  # sums of BLAS depend on the number of lines
        assert torch.equal(alone, found[0][-62:-31])  # the same in any company
