"""What `compand refit` makes of quantized GGUF files, measured with llama.cpp's own tools at identical size.

    python benchmarks/refit.py LLAMA_BIN stories DATA                      stories260K, full-precision weights (float32)
    python benchmarks/refit.py LLAMA_BIN model GGUF FOLDER CALIB TEST      any model: GGUF of full precision and its Hugging Face folder
    python benchmarks/refit.py LLAMA_BIN trained FOLDER DATA               what train_language.py made, whose rows are multiples of 256

LLAMA_BIN holds llama-quantize, llama-imatrix and llama-perplexity. Both files of a row are made from the same text: the imatrix
from it, and the refit fitted to it; KLD is measured on other text, of the trained model on two: more of the pages it is calibrated with,
and WikiText-2, whose words stand apart as in no text that it learnt from.
"""

from __future__ import annotations

import argparse
import lzma
import pathlib
import re
import struct
import subprocess
import tempfile

import numpy as np
import record
import stories
import train_language

from compand.integration import gguf_model, gguf_refit
from compand.modality.gguf_write import write_gguf

SMALL = "Q4_0,Q4_1,IQ4_NL,Q5_0"
WHOLE = "Q2_K,Q3_K_M,Q4_K_M,Q5_K_M,Q6_K,IQ4_XS,Q4_0,Q4_1,IQ4_NL,Q5_0"
THREADS = 1  # more wait for each other where the machine is shared


def stories_gguf(data: pathlib.Path, out: pathlib.Path) -> None:
    """stories260K (llama2.c form) as a GGUF file of float32."""
    tensors, sizes = stories.tensors((data / "stories260K.bin").read_bytes())
    heads, kv = sizes["num_attention_heads"], sizes["num_key_value_heads"]
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q",
             "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
             "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    found = {}
    for name, x in tensors.items():
        layer = re.match(r"model\.layers\.(\d+)\.(.*)\.weight", name)
        own = names[layer[2] if layer else name.removesuffix(".weight")]
        if own in ("attn_q", "attn_k"):
            x = x.reshape(heads if own == "attn_q" else kv, 2, -1, x.shape[1]).swapaxes(1, 2).reshape(x.shape)
        found[f"blk.{layer[1]}.{own}.weight" if layer else f"{own}.weight"] = ("F32", x)
    raw, at, pieces, scores = (data / "tok512.bin").read_bytes(), 4, [], []
    while at < len(raw):
        score, size = struct.unpack_from("<fi", raw, at)
        pieces.append(raw[at + 8:at + 8 + size].decode())
        scores.append(score)
        at += 8 + size
    words = [f"<0x{i - 3:02X}>" if 3 <= i < 259 else w.replace(" ", "▁") for i, w in enumerate(pieces)]
    words[:3] = ["<unk>", "<s>", "</s>"]
    kinds = [2, 3, 3] + [6 if 3 <= i < 259 else 1 for i in range(3, len(words))]
    dim, length = sizes["hidden_size"], sizes["max_position_embeddings"]
    write_gguf(out, found, {
        "general.architecture": "llama", "general.name": "stories260K", "llama.context_length": length, "llama.embedding_length": dim,
        "llama.block_count": sizes["num_hidden_layers"], "llama.feed_forward_length": sizes["intermediate_size"],
        "llama.attention.head_count": heads, "llama.attention.head_count_kv": kv, "llama.rope.dimension_count": dim // heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.vocab_size": len(words), "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": words, "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": np.array(kinds, np.int32),
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True})


def tool(folder: pathlib.Path, name: str, *args) -> str:
    """Run one of llama.cpp's programs; what it says."""
    with tempfile.TemporaryFile("w+", errors="replace") as log:  # to a pipe, the last lines are lost when the program ends
        done = subprocess.run([folder / f"llama-{name}", *map(str, args)], stdout=log, stderr=subprocess.STDOUT, check=False)
        log.seek(0)
        said = log.read()
    if done.returncode:
        raise SystemExit(f"llama-{name} failed:\n{said[-2000:]}")
    return said


def kld(folder: pathlib.Path, model: pathlib.Path, base: pathlib.Path, length: int, chunks: int) -> dict[str, float]:
    """Mean and 99 % KL divergence, perplexity, share of equal next tokens, as llama-perplexity tells them."""
    for _ in range(4):  # its last lines are lost now and then when it ends
        text = tool(folder, "perplexity", "-m", model, "-c", length, "--chunks", chunks, "--kl-divergence-base", base, "--kl-divergence",
                    "-t", THREADS)
        if "Same top p:" in text:
            break
    else:
        raise SystemExit(f"llama-perplexity does not tell its results:\n{text[-2000:]}")

    def number(pattern: str) -> float:
        return float(re.search(pattern + r"\s*:\s*([-\d.]+)", text)[1])

    return {"kld": number(r"Mean\s+KLD"), "kld_99": number(r"99\.0%\s+KLD"), "ppl": number(r"Mean PPL\(Q\)"), "top1": number(r"Same top p")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llama", type=pathlib.Path)
    parser.add_argument("subject", choices=("stories", "model", "trained"))
    parser.add_argument("paths", nargs="+", type=pathlib.Path)
    parser.add_argument("--types", help="of llama.cpp; by default those that the rows can take")
    parser.add_argument("--chunks", type=int, default=40)
    parser.add_argument("--calibration-chunks", type=int, default=64)
    parser.add_argument("--sweeps", type=int, default=2)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as room:
        work = pathlib.Path(room)
        if args.subject == "stories":
            (data,) = args.paths
            full, folder = work / "stories.gguf", work / "hf"
            stories_gguf(data / "lm", full)
            stories.main(str(data / "lm"), str(folder))
            text = lzma.open(data / "text/calib-tiny.txt.xz", "rt").read()
            cut = len(text) // 2
            calibration, tests, name = text[:cut], {None: text[cut:]}, "stories"
        elif args.subject == "trained":
            folder, data = args.paths
            full, (calibration, tests) = work / "full.gguf", train_language.apart(data / "text")
            gguf_model.from_folder(folder, full, kind="F32")
            name = f"trained, {full.stat().st_size / 4e6:.1f} M"
        else:
            full, folder, a, b = args.paths
            calibration, test = (lzma.open(p, "rt").read() if p.suffix == ".xz" else p.read_text() for p in (a, b))
            tests, name = {None: test}, full.stem
        (work / "calib.txt").write_text(calibration)
        tool(args.llama, "imatrix", "-m", full, "-f", work / "calib.txt", "-o", work / "imatrix.gguf", "-c", 512,
             "--chunks", args.calibration_chunks, "-t", THREADS)
        for what, test in tests.items():
            (work / "test.txt").write_text(test)
            tool(args.llama, "perplexity", "-m", full, "-f", work / "test.txt", "-c", 512, "--chunks", args.chunks,
                 "--kl-divergence-base", work / f"base-{what}", "-t", THREADS)
        for kind in (args.types or (WHOLE if args.subject == "trained" else SMALL)).split(","):
            plain, better = work / "plain.gguf", work / "better.gguf"
            tool(args.llama, "quantize", "--imatrix", work / "imatrix.gguf", full, plain, kind, 2)
            result = gguf_refit.refit(plain, folder, better, calibration=calibration, sequences=args.calibration_chunks, sweeps=args.sweeps,
                                      overwrite=True)
            assert plain.stat().st_size == better.stat().st_size
            for what in tests:
                before, after = (kld(args.llama, path, work / f"base-{what}", 512, args.chunks) for path in (plain, better))
                rows.append({
                    "subject": name, "type": kind, **({"text": what} if what else {}), "bits": result["bits"], "kld": before["kld"],
                    "kld refit": after["kld"], "lower by": 1 - after["kld"] / before["kld"],
                    "kld 99 %": before["kld_99"], "kld 99 % refit": after["kld_99"], "top-1 %": before["top1"],
                    "top-1 % refit": after["top1"], "ppl": before["ppl"], "ppl refit": after["ppl"], "seconds": result["seconds"]})
                print(record.table(rows[-1:]), flush=True)
            save(rows)
    print(record.table(rows))


def save(rows: list[dict]) -> None:
    """Put the rows in the place of older ones of the same subject, type and text."""
    mine = {(r["subject"], r["type"], r.get("text")) for r in rows}
    kept = [r for r in record.rows("refit") if (r["subject"], r["type"], r.get("text")) not in mine]
    record.save("refit", kept + rows, about="llama-quantize --imatrix, and compand refit of the same file; KLD in nats by llama-perplexity")


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
