"""compand run and compand bench MODEL, on a small model with a real tokenizer."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import compand

tokenizers = pytest.importorskip("tokenizers")
safetensors = pytest.importorskip("safetensors.numpy")


@pytest.fixture
def small(there):
    """A Llama of random weights that reads and writes bytes, as a folder and as a .cpd file."""
    config = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "vocab_size": 256, "max_position_embeddings": 128, "tie_word_embeddings": True,
              "rms_norm_eps": 1e-5}
    rng = np.random.default_rng(0)
    found = {"model.embed_tokens.weight": rng.standard_normal((256, 64)), "model.norm.weight": np.ones(64)}
    for i in range(2):
        at = f"model.layers.{i}."
        found |= {at + "input_layernorm.weight": np.ones(64), at + "post_attention_layernorm.weight": np.ones(64)}
        for name, shape in {"self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64),
                            "self_attn.o_proj": (64, 64), "mlp.gate_proj": (96, 64), "mlp.up_proj": (96, 64),
                            "mlp.down_proj": (64, 96)}.items():
            found[f"{at}{name}.weight"] = rng.standard_normal(shape) * 0.2
    folder = there / "small"
    folder.mkdir()
    safetensors.save_file({k: v.astype(np.float32) for k, v in found.items()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    compand.modality.pack(folder, there / "small.cpd", spec="int:8:group=32")
    return folder


def test_a_stack_runs_in_any_memory(run, small):
    compand.modality.pack(small, "stack.cpd", spec="int:4:group=32+int:4:group=32")
    found = [json.loads(run("run", "stack.cpd", "-p", "Hello", "-n", 5, "--json", *more).stdout) for more in ((), ("--memory", "60kB"))]
    assert found[1]["bytes"] <= 60_000 < found[0]["bytes"] and found[1]["tokens"] == 5
    few = run("run", "stack.cpd", "-p", "Hello", "--memory", "10kB")
    assert few.exit_code == 1 and "needed at least" in few.stderr


def test_text_streams_and_speed_is_told(run, small):
    done = run("run", "small.cpd", "--prompt", "Hello", "-n", 20)
    assert done.exit_code == 0 and done.stdout.strip() and "tokens/s" in done.stderr and "memory" in done.stderr
    again = run("run", "small.cpd", "-p", "Hello", "-n", 20, "-q")
    assert again.stdout == done.stdout and not again.stderr
    result = json.loads(run("run", "small.cpd", "-p", "Hello", "-n", 20, "--json").stdout)
    assert result["text"] + "\n" == done.stdout and result["tokens"] == 20 and result["prompt_tokens"] == 5 and 8 < result["bits"] < 12
    if sys.platform == "linux":
        parts = [result[f"own_{name}_bytes"] for name in ("program", "model", "tokenizer")]
        assert 0 < sum(parts) <= result["own_bytes"] + (1 << 24)
        assert 0 < result["mapped_bytes"] and "mapped files" in done.stderr and "the tokenizer" in done.stderr
    words = ("run", "small", "--spec", "int:4:group=32", "-p", "Hello", "--temperature", 1, "--top-k", 50, "-q", "--seed")
    hot = [run(*words, seed).stdout for seed in (1, 1, 2)]
    assert hot[0] == hot[1] != hot[2]


def test_bench_of_a_model(run, small):
    result = json.loads(run("bench", "small.cpd", "--json").stdout)
    assert result["decode_tok_s"] > 0 and result["prompt_tok_s"] > 0 and result["read_gb_s"] > 0 and result["tokens"] == 32
    words = run("bench", "int:4:group=32", "small")
    assert words.exit_code == 0 and "tokens/s" in words.stdout and "GB/s" in words.stdout
    peer = pytest.importorskip("torch") and pytest.importorskip("transformers") and run("bench", "small", "--peer", "small")
    assert peer.exit_code == 0 and "peer" in peer.stdout


def test_no_option_is_passed_over(run, small):
    for words in (("run", "small.cpd", "-p", "a", "--spec", "int:2"), ("bench", "int:4", "small.cpd")):
        done = run(*words)
        assert done.exit_code == 1 and "coded already" in done.stderr
    for words, name in ((("--rows", 5), "--rows"), (("--html", "x.html"), "--html")):
        done = run("bench", "small", *words)
        assert done.exit_code == 2 and name in done.stderr and "--entry" in done.stderr
    many = run("run", "small.cpd", "-p", "a", "-T", 1000)
    assert many.exit_code == 2 and "256" in many.stderr


def test_variables_that_cannot_be_heeded():
    code = "import compand; from compand import _native; print(_native.threads(), _native.isa())"

    def told(**variables):
        done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True, check=True)
        return done.stdout.split(), done.stderr

    (threads, isa), words = told(COMPAND_THREADS="2x", COMPAND_ISA="neon")
    assert "'2x'" in words and "1 to 256" in words and "'neon'" in words and "scalar, avx2, avx512" in words
    assert told(COMPAND_THREADS="3", COMPAND_ISA="scalar") == (["3", "scalar"], "")
    assert int(threads) >= 1 and isa in ("scalar", "avx2", "avx512")


def test_errors_say_what_to_do(run, small, there):
    assert run("run", "small", "-p", "").exit_code == 2
    long = run("run", "small", "-p", "x" * 300)
    assert long.exit_code == 1 and "context" in long.stderr
    assert run("bench", "small", "--peer", "nothing").exit_code == 2
    (there / "small" / "tokenizer.json").write_text("{}")
    assert "tokenizer.json" in run("run", "small", "-p", "a").stderr
    (there / "small" / "config.json").write_text('{"model_type": "bert"}')
    assert "compand.hf" in run("run", "small", "-p", "a").stderr
