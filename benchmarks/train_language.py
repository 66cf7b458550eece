"""Train a small language model from the shared texts: a clean full-precision subject, in the form of a Hugging Face folder.

    python benchmarks/train_language.py DATA/text OUT                  # 5.8 million parameters; 2 hours of one CPU core, minutes of a GPU
    python benchmarks/train_language.py DATA/text OUT --size medium    # 42 million, for a GPU
    python benchmarks/train_language.py DATA/text OUT --tokens 3e6     # less text: 20 minutes of one core

A decoder of Llama's architecture whose rows are multiples of 256, with a byte-level BPE tokenizer of the same text. It learns from English
prose among the files ``train-*`` and ``calib-*``; of C4 the part past a million characters is left out, which other benchmarks test on, and
the validation split of WikiText-2 tells how far it came. Products are bfloat16, weights and their steps float32. A run that was stopped
goes on from its last checkpoint (OUT.state) when started again; weights are not part of the repository.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SIZES = {  # hidden, feed-forward, layers, heads, heads of keys, vocabulary, tokens to learn from
    "tiny": (64, 192, 2, 4, 2, 512, 2e5), "small": (256, 768, 6, 4, 2, 4096, 2e7), "medium": (512, 1536, 12, 8, 4, 8192, 1e9)}
TEXTS = ("calib-wiki", "calib-c4", "train-abc-webtext", "train-brown", "train-movie_reviews", "train-public-domain")
CUT = {"calib-c4": 1_000_000}
END = "<|endoftext|>"


def read(folder: Path, name: str) -> str:
    return lzma.open(folder / f"{name}.txt.xz", "rt", encoding="utf-8", errors="replace").read()[:CUT.get(name)]


def apart(folder: Path) -> tuple[str, dict[str, str]]:
    """Text to calibrate with, of what the model learnt from (Wikipedia and C4 in turn), and texts that it has not seen."""
    wiki, web = read(folder, "calib-wiki"), read(folder, "calib-c4")
    mixed = "".join(x[at:at + 1000] for at in range(0, 900_000, 1000) for x in (wiki, web))
    rest = lzma.open(folder / "calib-c4.txt.xz", "rt", encoding="utf-8", errors="replace").read()[CUT["calib-c4"]:]
    return mixed, {"C4": rest, "WikiText-2": read(folder, "wikitext2-test")}


def tokenizer(texts: list[str], size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE, split as GPT-2 does."""
    found = Tokenizer(models.BPE())
    found.pre_tokenizer, found.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    found.train_from_iterator((text[at:at + 10_000] for text in texts for at in range(0, len(text), 10_000)), trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=found, bos_token=END, eos_token=END)


def tokens(words: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """All texts in one row."""
    end = words.convert_tokens_to_ids(END)
    return torch.from_numpy(np.concatenate([np.array([end, *words.backend_tokenizer.encode(t).ids], np.int32) for t in texts]))


def model_of(size: str, length: int) -> LlamaForCausalLM:
    hidden, ffn, layers, heads, kv, vocabulary, _ = SIZES[size]
    return LlamaForCausalLM(LlamaConfig(
        hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv,
        vocab_size=vocabulary, max_position_embeddings=2 * length, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
        rms_norm_eps=1e-5, initializer_range=0.6 / math.sqrt(hidden), attn_implementation="sdpa"))


def some(ids: torch.Tensor, step: int, lines: int, length: int) -> torch.Tensor:
    """The sequences of a step, which the step's number alone tells: (lines, length) int64."""
    at = torch.randint(0, len(ids) - length, (lines,), generator=torch.Generator().manual_seed(step))
    return torch.stack([ids[i:i + length] for i in at.tolist()]).long()


def held_out(model, ids: torch.Tensor, length: int, lines: int = 64) -> float:
    """Mean loss in nats a token of evenly spaced sequences."""
    at = torch.linspace(0, len(ids) - length, lines).long().tolist()
    model.eval()
    with torch.no_grad():
        found = [model(x, labels=x).loss.item() for i in at for x in [ids[None, i:i + length].long().to(model.device)]]
    model.train()
    return sum(found) / len(found)


def train(model, ids: torch.Tensor, state: Path, *, steps: int, lines: int, length: int, rate: float, every: float, say=print,
          tell: float = 20) -> list[float]:
    """Take steps of AdamW, the rate warmed up and then falling as a cosine; the loss of each since the last checkpoint.

    ``every`` so many seconds the state goes to the disk, and a state that is there is gone on from.
    """
    device = model.device
    plain = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer, first, losses = torch.optim.AdamW(groups, rate, betas=(0.9, 0.95)), 0, list[float]()
    if state.exists():
        found = torch.load(state, map_location=device, weights_only=True)
        if (found["steps"], found["lines"], found["length"]) != (steps, lines, length):
            raise SystemExit(f"{state} is of a run with {found['steps']:,} steps of {found['lines']} x {found['length']} tokens; remove it")
        model.load_state_dict(found["model"])
        optimizer.load_state_dict(found["optimizer"])
        first = found["step"]
    warm, begin, saved, told = max(1, min(steps // 20, 500)), time.monotonic(), time.monotonic(), time.monotonic()
    for step in range(first, steps):
        part = (step - warm) / max(steps - warm, 1)
        for group in optimizer.param_groups:
            group["lr"] = rate * (step + 1) / warm if step < warm else rate * (0.05 + 0.95 * (1 + math.cos(math.pi * part)) / 2)
        x = some(ids, step, lines, length).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(x, labels=x).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        now = time.monotonic()
        if now - saved >= every or step + 1 == steps:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1, "steps": steps, "lines": lines,
                        "length": length}, state.with_suffix(".new"))
            os.replace(state.with_suffix(".new"), state)
            saved = now
        if now - told >= tell or step + 1 == steps:
            left, mean = (now - begin) / (step + 1 - first) * (steps - step - 1) / 60, float(torch.stack(losses[-50:]).mean())
            say(f"step {step + 1:,} of {steps:,}, loss {mean:.3f}, {left:.1f} minutes left", flush=True)
            told = now
    return [float(v) for v in losses]


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    parser.add_argument("--tokens", type=float, help="to learn from; by default as many as the size asks for")
    parser.add_argument("--texts", nargs="+", default=list(TEXTS))
    parser.add_argument("--length", type=int, default=256, help="tokens of a sequence")
    parser.add_argument("--lines", type=int, help="sequences of a step; by default 4 on a CPU, 64 on a GPU")
    parser.add_argument("--rate", type=float, default=3e-3, help="of learning, at its largest")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=int, default=120, help="between checkpoints")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    lines = args.lines or (64 if args.device.startswith("cuda") else 4)
    steps = max(1, int((args.tokens or SIZES[args.size][-1]) / (lines * args.length)))
    texts = [read(args.text, name) for name in args.texts]
    words = PreTrainedTokenizerFast.from_pretrained(args.out) if (args.out / "tokenizer.json").exists() else tokenizer(
        texts, SIZES[args.size][5])
    words.save_pretrained(args.out)
    ids, model = tokens(words, texts), model_of(args.size, args.length).to(args.device)
    count, start = sum(p.numel() for p in model.parameters()), time.process_time()
    print(f"{count:,} parameters, {len(ids):,} tokens of text, {steps:,} steps of {lines} x {args.length} on {args.device}", flush=True)
    state = args.out.with_name(args.out.name + ".state")
    losses = train(model, ids, state, steps=steps, lines=lines, length=args.length, rate=args.rate, every=args.seconds)
    test = tokens(words, [read(args.text, "wikitext2-valid")])
    told = {"parameters": count, "tokens": steps * lines * args.length, "loss": float(np.mean(losses[-100:])) if losses else None,
            "loss, WikiText-2 valid": held_out(model.float(), test, args.length), "device": args.device,
            "cpu_s": round(time.process_time() - start, 1)}
    model.to("cpu", torch.float32).save_pretrained(args.out)
    (args.out / "training.json").write_text(json.dumps(told, indent=1) + "\n")
    state.unlink(missing_ok=True)
    print(json.dumps(told))
    return told


if __name__ == "__main__":
    main()
