"""`compand.lm`: the same logits as transformers, whatever the family, the sizes and the form of the weights."""

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import compand
from compand import _native
from compand.errors import CompandError, FormatError, InputError, UnsupportedError
from compand.lm import Sampling, load
from compand.lm.shape import shape_of
from compand.lm.weights import Weights

os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()

SMALL = dict(vocab_size=97, hidden_size=64, intermediate_size=136, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=96, eos_token_id=None, bos_token_id=None, pad_token_id=None)
FAMILIES = {
    "llama": ("Llama", {}),
    "llama-odd": ("Llama", dict(hidden_size=60, intermediate_size=101, num_attention_heads=3, num_key_value_heads=1, head_dim=10,
                                attention_bias=True, mlp_bias=True, tie_word_embeddings=True)),
    "llama3": ("Llama", dict(rope_parameters=dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0,
                                                  high_freq_factor=4.0, original_max_position_embeddings=32))),
    "linear": ("Llama", dict(rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.0))),
    "mistral": ("Mistral", dict(sliding_window=7)),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", dict(head_dim=32)),
    "gemma": ("Gemma", dict(head_dim=16)),
    "gemma2": ("Gemma2", dict(head_dim=16, sliding_window=6, query_pre_attn_scalar=24, num_hidden_layers=4)),
    "gemma3": ("Gemma3", dict(head_dim=24, sliding_window=5, query_pre_attn_scalar=20, num_hidden_layers=7)),
}
IDS = np.random.default_rng(0).integers(0, 97, 75)


def make(folder, family, **more):
    name, own = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}{'Text' if name == 'Gemma3' else ''}Config")(**{**SMALL, **own, **more})
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    with torch.no_grad():
        for p in model.parameters():  # norms and biases too, so that each is seen to count
            p.add_(torch.randn_like(p) * 0.15)
    model.train(False).save_pretrained(folder)
    return model


def reference(model, ids=IDS):
    with torch.no_grad():
        return model(torch.from_numpy(np.asarray(ids))[None]).logits[0].numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers(family, tmp_path):
    full = reference(make(tmp_path, family))
    model = load(tmp_path, cache="float32")
    y = model.logits(IDS, every=True)
    assert np.abs(y - full).max() < 2e-4 * full.std()
    model.reset()
    one = np.stack([model.logits([t]) for t in IDS[:40]])  # token by token, over the same cache
    np.testing.assert_array_equal(one, y[:40])
    model.reset(20)
    np.testing.assert_array_equal(model.logits(IDS[20:30]), y[29])
    brain = load(tmp_path).logits(IDS, every=True)  # keys and values of 8 bits' precision
    assert 0 < np.abs(brain - full).max() < 0.05 * full.std()


def test_instructions_and_threads_change_no_bit(tmp_path):
    for family in ("gemma2", "llama-odd"):
        make(tmp_path / family, family)
        for spec in (None, "int:4:group=16", "hadamard,trellis:3:memory=12"):
            found = []
            for isa in ("scalar", "avx2", "avx512"):
                for threads in (1, 3):
                    if _native.set_isa(isa):
                        _native.set_threads(threads)
                        found.append(load(tmp_path / family, spec=spec).logits(IDS[:20], every=True))
            _native.set_isa("auto")
            _native.set_threads(0)
            assert all(np.array_equal(found[0], y) for y in found[1:]), (family, spec)


def test_models_at_work_at_once_disturb_nothing(tmp_path):
    make(tmp_path, "llama")
    spec = "hadamard,trellis:3:memory=12"
    alone = load(tmp_path, spec=spec).logits(IDS[:30], every=True)
    found = {}

    def run(i):
        model = load(tmp_path, spec=spec)
        found[i] = np.concatenate([model.logits([t])[None] for t in IDS[:30]])

    _native.set_threads(3)
    try:
        all_of_them = [threading.Thread(target=run, args=(i,)) for i in range(3)]
        for t in all_of_them:
            t.start()
        for t in all_of_them:
            t.join()
    finally:
        _native.set_threads(0)
    assert len(found) == 3
    for y in found.values():
        np.testing.assert_array_equal(y, alone)


@pytest.mark.parametrize("spec", ["int:8:group=32", "hadamard,int:6", "hadamard,trellis:4:memory=12",
                                  "int:4:group=16+int:4:group=16", "pq:16x8", "float:e4m3"])
def test_codes_give_what_their_weights_give(spec, tmp_path):
    for family in ("llama", "gemma3"):
        folder, file = tmp_path / family, tmp_path / f"{family}.cpd"
        model = make(folder, family, vocab_size=300)
        compand.modality.pack(folder, file, spec=spec)
        compand.modality.unpack(file, tmp_path / f"{family}-again")
        decoded = type(model).from_pretrained(tmp_path / f"{family}-again", dtype=torch.float32)
        full = reference(decoded)
        ours = load(file, cache="float32")
        y = ours.logits(IDS, every=True)
        assert np.abs(y - full).std() < 0.03 * full.std()
        again = load(folder, spec=spec, cache="float32")
        assert again.values == ours.values and np.array_equal(again.logits(IDS, every=True), y)
        w = decoded.get_input_embeddings().weight[5].detach().numpy()
        from compand.lm.weights import Weights

        row = Weights(file).matrix("model.embed_tokens.weight", 300, 64).row(5)
        np.testing.assert_allclose(row, w, atol=2e-3 * np.abs(w).max())


def test_lossless_file_and_greedy_generation(tmp_path):
    model = make(tmp_path / "m", "qwen3")
    compand.modality.pack(tmp_path / "m", tmp_path / "m.cpd", lossless=True)
    ours = load(tmp_path / "m.cpd", cache="float32")
    ids = torch.from_numpy(IDS[:9])[None]
    with torch.no_grad():
        full = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False)[0, 9:].tolist()
    assert list(ours.generate(IDS[:9], most=20)) == full
    ours.reset()
    a, b = (list(load(tmp_path / "m.cpd").generate(IDS[:9], most=20, sampling=Sampling(1.0, 20, 0.9, seed=s))) for s in (1, 1))
    assert a == b and a != full
    small = load(tmp_path / "m.cpd", context=12)
    assert len(list(small.generate(IDS[:9], most=20))) == 4 and small.position == 12


def test_lossless_run_form_gives_the_logits_of_bfloat16(tmp_path):
    for family in ("gemma3", "llama-odd"):
        make(tmp_path / family, family).to(torch.bfloat16).save_pretrained(tmp_path / family)
        compand.modality.pack(tmp_path / family, tmp_path / f"{family}.cpd", spec="ranks")
        brain, ours, coded = load(tmp_path / family), load(tmp_path / f"{family}.cpd"), load(tmp_path / family, spec="ranks")
        assert ours.values == brain.values and ours.bytes < 0.9 * brain.bytes
        y = brain.logits(IDS, every=True)
        assert np.array_equal(ours.logits(IDS, every=True), y) and np.array_equal(coded.logits(IDS, every=True), y)
        assert np.array_equal(ours.logits(IDS[:1]), brain.logits(IDS[:1]))  # one token: the other kernel


def test_coded_folder_of_transformers(tmp_path):
    compand_hf = pytest.importorskip("compand.hf")
    make(tmp_path / "m", "llama")
    config = compand_hf.CompandConfig(bits=4, overrides={"down_proj": "int:8:group=16"}, modules_to_not_convert=[])
    coded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m", quantization_config=config)
    coded.save_pretrained(tmp_path / "c")
    compand_hf.run_natively(coded, False)
    full = reference(coded)
    y = load(tmp_path / "c", cache="float32").logits(IDS, every=True)
    off = np.abs(y - full) / full.std()  # now and then an activation rounds the other way, where its last bit differs
    assert np.median(off) < 1e-5 and off.max() < 0.3


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_coded_folder_without_an_embedding(family, tmp_path):
    """A tied matrix that was coded is kept as the head."""
    compand_hf = pytest.importorskip("compand.hf")
    make(tmp_path / "m", family, tie_word_embeddings=True)
    config = compand_hf.CompandConfig(spec="int:8:group=32", head=True)
    coded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m", quantization_config=config)
    coded.save_pretrained(tmp_path / "c")
    compand_hf.run_natively(coded, False)
    full = reference(coded)
    y = load(tmp_path / "c", cache="float32").logits(IDS, every=True)
    off = np.abs(y - full) / full.std()
    assert np.median(off) < 1e-3 and off.max() < 0.3

def test_files_of_a_folder_are_bounded(tmp_path, monkeypatch):
    make(tmp_path / "m", "llama")
    (tmp_path / "m" / "words.txt").write_text("x" * 3000)
    weights = Weights(tmp_path / "m")
    assert len(weights.file("words.txt")) == 3000 and weights.file("none") is None
    monkeypatch.setattr("compand.lm.weights.MOST_FILE", 2999)
    with pytest.raises(FormatError, match="too much"):
        weights.file("words.txt")


def test_what_is_no_model_ends_in_a_named_error(tmp_path):
    make(tmp_path / "m", "llama")
    with pytest.raises(InputError, match="context"):
        load(tmp_path / "m", context=1000)
    model = load(tmp_path / "m", context=20)
    for bad in ([], [97], [-1], [0.5], np.zeros((2, 2), int)):
        with pytest.raises(InputError):
            model.logits(bad)
    with pytest.raises(InputError, match="context"):
        model.logits(np.zeros(21, int))
    with pytest.raises(InputError):
        model.reset(3)
    with pytest.raises(FormatError, match="tokenizer"):
        model.tokens("hello")
    path = tmp_path / "m" / "config.json"
    good = json.loads(path.read_text())
    changes = [(dict(model_type="bert"), UnsupportedError), (dict(num_hidden_layers=5), FormatError), (dict(hidden_size=32), FormatError),
               (dict(num_attention_heads=0), FormatError), (dict(num_key_value_heads=3), FormatError), (dict(vocab_size=98), FormatError),
               (dict(rms_norm_eps="x"), FormatError), (dict(hidden_act="relu"), UnsupportedError), (dict(head_dim=8), FormatError),
               (dict(num_hidden_layers=10 ** 9), FormatError), (dict(layer_types=["x"]), UnsupportedError), (dict(head_dim=7), FormatError),
               (dict(rope_parameters=dict(rope_type="yarn", rope_theta=1e4)), UnsupportedError), (dict(sliding_window=[]), FormatError),
               (dict(rope_parameters=dict(rope_type="default", rope_theta="x")), FormatError), (dict(max_position_embeddings=None), None),
               (dict(rms_norm_eps=10 ** 400), FormatError), (dict(layer_types=[[], {}, 1]), UnsupportedError),
               (dict(rope_parameters=None, rope_scaling="x"), None), (dict(quantization_config="x"), FormatError),
               (dict(quantization_config=dict(quant_method="gptq")), FormatError)]
    for change, error in changes:
        path.write_text(json.dumps({**good, **change}))
        if error is None:
            load(tmp_path / "m")
            continue
        if "sliding_window" in change:
            path.write_text(json.dumps({**good, **change, "model_type": "mistral"}))
        with pytest.raises(error):
            load(tmp_path / "m")
    with pytest.raises(FormatError, match="scalar"):
        shape_of(dict(good, model_type="gemma2", query_pre_attn_scalar=0))
    for text in ("[]", "{", "1"):
        path.write_text(text)
        with pytest.raises(CompandError):
            load(tmp_path / "m")
    for mark, said in ((b"GGUF", "compand transcode"), (b"abc", "Hugging Face")):
        (tmp_path / "m.gguf").write_bytes(mark)
        with pytest.raises(FormatError, match=said):
            load(tmp_path / "m.gguf")
    path.unlink()
    with pytest.raises(FormatError, match="config.json"):
        load(tmp_path / "m")


def test_a_real_model(tmp_path):
    import importlib.util
    from pathlib import Path

    root = Path(__file__).parents[2]
    data = root.parent / "shared" / "data" / "lm"
    if not data.is_dir():
        pytest.skip("no ../shared/data/lm beside the repository")
    found = importlib.util.spec_from_file_location("stories", root / "benchmarks" / "stories.py")
    stories = importlib.util.module_from_spec(found)
    found.loader.exec_module(stories)
    stories.main(str(data), str(tmp_path / "stories"))
    full = reference(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "stories"), IDS)
    y = load(tmp_path / "stories", cache="float32").logits(IDS, every=True)
    assert np.abs(y - full).max() < 1e-4 * full.std()
    coded = load(tmp_path / "stories", spec="hadamard,int:8")
    assert (coded.logits(IDS, every=True) - full).std() < 0.03 * full.std()
    coded.reset()
    text = "".join(coded.stream("Once upon a time", most=40))
    assert text.startswith(", there was a") and len(text.split()) > 20


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_a_model_that_does_not_fit(tmp_path):
    """Under a limit below its size in bfloat16 a model runs on its codes; without codes it ends in a named error."""
    config = {"model_type": "llama", "hidden_size": 1024, "intermediate_size": 5120, "num_hidden_layers": 2, "num_attention_heads": 8,
              "num_key_value_heads": 4, "vocab_size": 128, "max_position_embeddings": 64, "tie_word_embeddings": True}
    rng = np.random.default_rng(0)
    shapes = {"self_attn.q_proj": (1024, 1024), "self_attn.k_proj": (512, 1024), "self_attn.v_proj": (512, 1024),
              "self_attn.o_proj": (1024, 1024), "mlp.gate_proj": (5120, 1024), "mlp.up_proj": (5120, 1024), "mlp.down_proj": (1024, 5120)}
    random = compand.array.cast(rng.standard_normal(65521, dtype=np.float32) * 0.02, "bfloat16")
    for name, spec in (("coded", "int:4:group=64"), ("whole", "raw")):
        with compand.Writer(tmp_path / f"{name}.cpd") as out:
            for i in range(2):
                for at, (module, shape) in enumerate(shapes.items()):
                    w = np.resize(random[97 * (7 * i + at):], shape)  # no block is another one
                    out.write(f"model.layers.{i}.{module}.weight", w, spec, check=False)
                for norm in ("input_layernorm", "post_attention_layernorm"):
                    out.write(f"model.layers.{i}.{norm}.weight", np.ones(1024, np.float32), "raw")
            out.write("model.embed_tokens.weight", np.resize(random, (128, 1024)), spec, check=False)
            out.write("model.norm.weight", np.ones(1024, np.float32), "raw")
            (tmp_path / "config.json").write_text(json.dumps(config))
            out.write_file("config.json", tmp_path / "config.json")
    sizes = {name: (tmp_path / f"{name}.cpd").stat().st_size for name in ("coded", "whole")}
    assert sizes["whole"] > 70 << 20 > 3 * sizes["coded"]
    code = ("import resource, sys\nfrom compand.errors import CompandError\nfrom compand.lm import load\n"
            "used = next(int(line.split()[1]) << 10 for line in open('/proc/self/status') if line.startswith('VmSize'))\n"
            f"resource.setrlimit(resource.RLIMIT_AS, (used + {64 << 20},) * 2)\n"
            "try:\n    print(len(list(load(sys.argv[1]).generate([1, 2, 3], most=5))))\n"
            "except (CompandError, MemoryError, OSError) as e:\n    print(type(e).__name__, e)\n")
    found = {}
    for name in sizes:
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / f"{name}.cpd")], capture_output=True, text=True,
                              env={**os.environ, "COMPAND_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
        found[name] = done.stdout.strip() or done.stderr
    assert found["coded"] == "5", found
    assert "memory" in found["whole"].lower(), found


STACK = "hadamard,(trellis:2:memory=12+trellis:1:memory=12+int:2)"


def test_a_stack_of_terms_fits_any_memory(tmp_path):
    from compand.modality import stack

    make(tmp_path / "m", "llama-odd")
    compand.modality.pack(tmp_path / "m", tmp_path / "m.cpd", spec=STACK)
    whole = load(tmp_path / "m.cpd")
    with compand.open(tmp_path / "m.cpd") as file:
        least = int(np.searchsorted([_fits(file, m) for m in range(whole.bytes + 1)], True))
        assert stack.within(file, least) == dict.fromkeys(stack.within(file, least), 1)
        assert set(stack.within(file, whole.bytes).values()) == {3}
    before = -1
    for memory in (least, (3 * least + whole.bytes) // 4, (least + whole.bytes) // 2, whole.bytes):
        model = load(tmp_path / "m.cpd", memory=memory)
        assert before < model.bytes <= memory and model.bytes > 0.9 * memory
        stack.cut(tmp_path / "m.cpd", tmp_path / "few.cpd", memory, overwrite=True)
        few = load(tmp_path / "few.cpd")
        assert few.bytes == model.bytes
        y = model.logits(IDS, every=True)
        np.testing.assert_array_equal(y, few.logits(IDS, every=True))
        before = model.bytes
    np.testing.assert_array_equal(y, whole.logits(IDS, every=True))
    stack.cut(tmp_path / "m.cpd", tmp_path / "few.cpd", size=(size := int(0.8 * (tmp_path / "m.cpd").stat().st_size)), overwrite=True)
    assert 0.7 * size < (tmp_path / "few.cpd").stat().st_size <= size
    with pytest.raises(InputError, match="needed at least"):
        load(tmp_path / "m.cpd", memory=least - 1)
    with pytest.raises(InputError, match=r"\.cpd file"):
        load(tmp_path / "m", memory=1 << 30)


def _fits(file, memory):
    from compand.modality import stack

    try:
        stack.within(file, memory)
    except InputError:
        return False
    return True


@pytest.mark.parametrize("meta", [5, {"lost": 3}, {"lost": {}}, {"lost": {"model.embed_tokens.weight": [1, -1, 0]}},
                                  {"lost": {"model.embed_tokens.weight": ["a", None, {}]}}, {"lost": [[1]]}, "measured"])
def test_what_a_file_says_of_its_terms_may_be_anything(tmp_path, meta):
    from compand.modality import stack

    make(tmp_path / "m", "llama")
    compand.modality.pack(tmp_path / "m", tmp_path / "m.cpd", spec="hadamard,(int:2+int:2)")
    with compand.open(tmp_path / "m.cpd") as file:
        names = [n for n in file if stack.stacked(file[n]) > 1]
        plain = stack.within(file, 60_000)
    told = {"lost": {n: [2.0, 1.0] for n in names} | {names[0]: [1e6, 0]}} if meta == "measured" else meta
    with compand.Writer(tmp_path / "m.cpd", append=True, meta={"stack": told}):
        pass
    with compand.open(tmp_path / "m.cpd") as file:
        found = stack.within(file, 60_000)
    assert (found == plain) is (meta != "measured") and (meta != "measured" or found[names[0]] == 2)
    assert load(tmp_path / "m.cpd", memory=60_000).bytes <= 60_000
