"""The same model in other programs, to be timed in turn with ours: transformers, and llama.cpp's llama-bench."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable

from .. import _native
from ..errors import InputError


def transformers_rate(folder, dtype: str = "bfloat16", *, prompt: int = 64, tokens: int = 16) -> Callable[[], float]:
    """A function that gives tokens a second of ``generate`` in transformers, on as many threads as ours, for a model folder."""
    from ..integration.language import transformers

    torch, library = transformers()
    torch.set_num_threads(_native.threads())
    model = library.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    model.generation_config.eos_token_id = None  # it does not end before
    ids = torch.arange(prompt)[None] % model.config.vocab_size

    def generate(count: int) -> float:
        begin = time.perf_counter()
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)
        return time.perf_counter() - begin

    return lambda: tokens / max(-generate(1) + generate(tokens + 1), 1e-9)


def llama_rate(gguf, *, prompt: int = 0, tokens: int = 32, program: str | None = None) -> Callable[[], float]:
    """A function that gives tokens a second of llama.cpp (``llama-bench`` on the path, or ``program``): decode, or a prompt."""
    found = program or shutil.which("llama-bench")
    if found is None:
        raise InputError("llama-bench is not on the path; build llama.cpp, or leave out the peer")

    def run() -> float:
        counts = ["-p", str(prompt), "-n", "0" if prompt else str(tokens), "-r", "1"]
        words = [found, "-m", str(gguf), "-t", str(_native.threads()), *counts, "-o", "json"]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise InputError(f"llama-bench failed on {gguf}: {done.stderr.strip()[-300:]}")
        return float(json.loads(done.stdout)[0]["avg_ts"])

    return run
