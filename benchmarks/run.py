"""Whole models on their codes: tokens a second of prompts and answers, beside llama.cpp and transformers in the same rounds.

    python benchmarks/run.py [synthetic] [gemma] [--rounds 3] [--threads 1,2] [--llama DIR] [--gemma FOLDER] [--coded FILE] [--hf]
                             [--limited] [--table]

`synthetic`: a Llama of 252 million weights (d=2048, ff=8192, 4 layers, 32 heads, 8 of keys and values, 4,096 tokens), random codes: speed
does not depend on their values. `gemma`: Gemma-3-270M from its Hugging Face folder, coded without calibration, embedding and head too;
--coded is a .cpd file of it to be timed as well, whose codes were fitted.
With --hf also generate of transformers, plain in bfloat16 and through `compand.hf`, by the clock and by the CPU time of all threads
(--hf=only: nothing else). --limited measures memory alone, in a process with 420 MiB of address space.
--llama is a folder with llama-bench and llama-quantize. Files of the same shapes (gguf package) and of Gemma's
codes are made once in --work. Every round runs each of them once;
medians are reported, and a read of memory by as many threads in the same rounds. Rows replace those of the same name in
benchmarks/results/run.json.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import time

import numpy as np
import record

import compand
from compand import _native
from compand.codes import Block, Codes, stored_form
from compand.dtypes import dtype
from compand.lm.model import Model, load
from compand.lm.peers import llama_rate
from compand.lm.speed import measure
from compand.op.matmul import matrix

CONFIG = {"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 4, "num_attention_heads": 32,
          "num_key_value_heads": 8, "vocab_size": 4096, "max_position_embeddings": 2048, "tie_word_embeddings": True, "rms_norm_eps": 1e-5,
          "hidden_act": "silu", "rope_theta": 10000.0, "architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16"}
TYPES = ["BF16", "Q8_0", "Q4_K_S", "Q2_K", "IQ3_XXS"]


class Random:
    """Weights of a shape with random codes of a spec."""

    path, names = "synthetic", ("model.embed_tokens.weight",)

    def __init__(self, config: dict, spec: str):
        self.config, self.spec, self.bytes, self.values, self.kept = config, spec, 0, 0, {}
        self.rng = np.random.default_rng(0)

    def __contains__(self, name: str) -> bool:
        return name.endswith(("layernorm.weight", "model.norm.weight")) and "feedforward" not in name

    def file(self, name: str) -> None:
        return None

    json = file

    def vector(self, name: str, size: int) -> np.ndarray:
        return np.ones(size, np.float32)

    def matrix(self, name: str, n: int, d: int):
        if name not in self.kept:
            self.values += n * d
            if self.spec == "bfloat16":
                self.bytes += 2 * n * d
                self.kept[name] = _native.Plain(self.rng.integers(0x3c00, 0x3d00, (n, d), dtype=np.uint16))
            else:
                if self.spec == "ranks":  # its escapes fit its ranks, so that they cannot be random
                    w = self.rng.standard_normal((n, d), dtype=np.float32) * np.float32(0.02)
                    codes = compand.Codec("ranks").encode(w.astype(dtype("bfloat16")))
                else:
                    codes = coded(self.spec, (n, d), self.rng)
                self.bytes += codes.nbytes
                self.kept[name] = matrix(codes, copy=True)
        return self.kept[name]


def coded(spec: str, shape: tuple[int, int], rng) -> Codes:
    """Random codes of such weights, in one block."""
    codec = compand.Codec(spec)
    parts = {}
    for name, part in codec.layout(codec.form(shape, "float32")).items():
        kind, size = stored_form(part)
        parts[name] = rng.integers(0, 256, size, dtype=np.uint8) if kind == "uint8" else np.full(size, 1e-4, np.float32).astype(dtype(kind))
    return Codes(codec, shape, "float32", (Block(shape[0], parts),))


def synthetic_gguf(folder: pathlib.Path, llama: pathlib.Path) -> dict[str, pathlib.Path]:
    """The same shape with random weights, in llama.cpp's types."""
    import gguf

    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / "synthetic-F16.gguf"
    if not whole.exists():
        rng, c = np.random.default_rng(0), CONFIG
        w = gguf.GGUFWriter(str(whole), "llama")
        w.add_context_length(2048)
        w.add_embedding_length(c["hidden_size"])
        w.add_block_count(c["num_hidden_layers"])
        w.add_feed_forward_length(c["intermediate_size"])
        w.add_head_count(c["num_attention_heads"])
        w.add_head_count_kv(c["num_key_value_heads"])
        w.add_layer_norm_rms_eps(1e-5)
        w.add_rope_dimension_count(64)
        w.add_vocab_size(c["vocab_size"])
        w.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
        w.add_tokenizer_model("llama")
        w.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *(f"t{i}" for i in range(c["vocab_size"] - 259))])
        w.add_token_scores([0.0] * c["vocab_size"])
        w.add_token_types([2, 3, 3, *[6] * 256, *[1] * (c["vocab_size"] - 259)])
        d, ff, kv = c["hidden_size"], c["intermediate_size"], 512

        def put(name, *shape):
            x = rng.standard_normal(shape, dtype=np.float32) * 0.02
            w.add_tensor(f"{name}.weight", x.astype(np.float16 if len(shape) == 2 else np.float32))

        put("token_embd", c["vocab_size"], d)
        put("output_norm", d)
        for i in range(c["num_hidden_layers"]):
            for name, shape in {"attn_norm": (d,), "ffn_norm": (d,), "attn_q": (d, d), "attn_k": (kv, d), "attn_v": (kv, d),
                                "attn_output": (d, d), "ffn_gate": (ff, d), "ffn_up": (ff, d), "ffn_down": (d, ff)}.items():
                put(f"blk.{i}.{name}", *shape)
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()
    found = {}
    for kind in TYPES:
        path = folder / f"synthetic-{kind}.gguf"
        if not path.exists():
            extra = ["--imatrix", str(flat_imatrix(folder, whole))] if kind.startswith("IQ") else []
            done = subprocess.run([llama / "llama-quantize", "--pure", *extra, whole, path, kind], capture_output=True, text=True)
            if done.returncode:
                print(f"llama-quantize {kind}: {done.stdout[-200:]}{done.stderr[-300:]}")
                path.unlink(missing_ok=True)
                continue
        found[kind] = path
    return found


def flat_imatrix(folder: pathlib.Path, model: pathlib.Path) -> pathlib.Path:
    """An importance of one for every column, in llama.cpp's older binary form."""
    import struct

    import gguf

    path = folder / "flat.imatrix"
    with open(path, "wb") as f:
        tensors = [(t.name, int(t.shape[0])) for t in gguf.GGUFReader(str(model)).tensors if len(t.shape) == 2]
        f.write(struct.pack("<i", len(tensors)))
        for name, width in tensors:
            f.write(struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", 1, width) + np.ones(width, np.float32).tobytes())
    return path


def row(model: str, program: str, weights: str, threads: int, result: dict) -> dict:
    """One line of the results."""
    kept = {k: round(v, 3) if isinstance(v, float) else v for k, v in result.items()}
    told = "  ".join(f"{k} {v}" for k, v in kept.items() if k != "threads")
    print(f"  {model:10} {program:14} {weights:22} {threads}T {told}", flush=True)
    return {"model": model, "program": program, "weights": weights, "threads": threads, **{k: v for k, v in kept.items() if k != "threads"},
            **record.when()}


def synthetic(args, threads: int) -> list[dict]:
    """The shape of 252 million weights."""
    out, peers = [], {}
    if args.llama:
        peers = synthetic_gguf(pathlib.Path(args.work), pathlib.Path(args.llama))
    pairs = {"BF16": ("bfloat16", "ranks"), "Q8_0": ("int:8:group=64",), "Q4_K_S": ("trellis:4", "hadamard,trellis:4", "int:4:group=64"),
             "IQ3_XXS": ("trellis:3", "hadamard,trellis:3"), "Q2_K": ("trellis:2", "hadamard,trellis:2")}
    for kind, specs in pairs.items():
        others = {}
        if kind in peers:
            program = str(pathlib.Path(args.llama) / "llama-bench")
            others = {"peer_decode": llama_rate(peers[kind], program=program),
                      "peer_prompt": llama_rate(peers[kind], prompt=64, program=program)}
        for i, spec in enumerate(s for s in specs if not args.specs or s in args.specs.split(";")):
            result = measure(Model(Random(CONFIG, spec)), rounds=args.rounds, others=others if i == 0 else {})
            theirs = {name: result.pop(name) for name in others if name in result}
            out.append(row("synthetic", "compand", spec, threads, result))
            if theirs:
                size = peers[kind].stat().st_size
                out.append(row("synthetic", "llama.cpp", kind, threads, {
                    "prompt_tok_s": theirs["peer_prompt"], "decode_tok_s": theirs["peer_decode"], "read_gb_s": result["read_gb_s"],
                    "gb_s": theirs["peer_decode"] * size / 1e9, "bits": 8 * size / 251658240, "bytes": size}))
    return out


def limited(args, threads: int, limit: int = 420 << 20) -> list[dict]:
    """The shape of 252 million weights from a .cpd file, in a process that may have no more address space than ``limit`` bytes."""
    rng, out = np.random.default_rng(0), []
    shapes = {"self_attn.q_proj": (2048, 2048), "self_attn.k_proj": (512, 2048), "self_attn.v_proj": (512, 2048),
              "self_attn.o_proj": (2048, 2048), "mlp.gate_proj": (8192, 2048), "mlp.up_proj": (8192, 2048), "mlp.down_proj": (2048, 8192)}
    shapes = {f"model.layers.{i}.{name}.weight": shape for i in range(4) for name, shape in shapes.items()}
    shapes["model.embed_tokens.weight"] = (4096, 2048)
    code = ("import resource, sys\nresource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)\nimport json\n"
            "from compand.cli.run import memory, peak\nfrom compand.lm import load\n"
            "before, model = memory(), load(sys.argv[1], context=512)\ntokens = len(list(model.generate([1, 2, 3], most=8)))\n"
            "print(json.dumps({'tokens': tokens, 'own_bytes': memory()[0], 'own_program_bytes': before[0], 'mapped_bytes': memory()[1],"
            " 'mapped_program_bytes': before[1], 'peak_bytes': peak()}))")
    for spec in args.specs.split(";") if args.specs else ["int:4:group=64", "trellis:3", "bfloat16"]:
        path = pathlib.Path(args.work) / f"synthetic-{re.sub('[^a-z0-9]+', '-', spec)}.cpd"
        if not path.exists():
            with compand.Writer(path) as file:
                for name, shape in shapes.items():
                    if spec == "bfloat16":
                        file.write(name, rng.integers(0x3c00, 0x3d00, shape, dtype=np.uint16).view(dtype("bfloat16")), "raw", check=False)
                    else:
                        file.write_codes(name, coded(spec, shape, rng))
                for i in range(4):
                    for norm in ("input_layernorm", "post_attention_layernorm"):
                        file.write(f"model.layers.{i}.{norm}.weight", np.ones(2048, np.float32), "raw")
                file.write("model.norm.weight", np.ones(2048, np.float32), "raw")
                file.write_file("config.json", json.dumps(CONFIG).encode())
        done = subprocess.run([sys.executable, "-c", code, path, str(limit)], capture_output=True, text=True,
                              env={**os.environ, "COMPAND_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"})
        found = json.loads(done.stdout) if done.returncode == 0 else {"fault": done.stderr.strip().rpartition("\n")[2][:200]}
        out.append(row("synthetic", f"compand in {limit >> 20} MiB", spec, threads, {"bytes": path.stat().st_size, **found}))
    return out


def coded_once(folder: pathlib.Path, spec: str | None, args) -> pathlib.Path:
    """A .cpd file of the model in these codes, made without calibration once and kept in --work; the folder itself for no spec."""
    if spec is None:
        return folder
    path = pathlib.Path(args.work) / f"{folder.name}-{re.sub('[^a-z0-9]+', '-', spec)}.cpd"
    if not path.exists():
        compand.modality.pack(folder, path, spec=spec)
    return path


def gemma(args, threads: int) -> list[dict]:
    """Gemma-3-270M."""
    out, folder = [], pathlib.Path(args.gemma)
    others = {}
    if args.llama and args.gguf:
        program = str(pathlib.Path(args.llama) / "llama-bench")
        others = {"llama_decode": llama_rate(args.gguf, program=program), "llama_prompt": llama_rate(args.gguf, prompt=64, program=program)}
    specs = args.specs.split(";") if args.specs else ["int:4:group=64", None]
    files = {spec or "bfloat16": coded_once(folder, spec, args) for spec in specs}
    if args.coded:
        files |= {f"fitted, {load(args.coded, context=512).bits:.2f} bits": pathlib.Path(args.coded)}
    for name, path in files.items():
        result = measure(load(path, context=512), rounds=args.rounds, others=others)
        theirs = {other: result.pop(other) for other in others}
        out.append(row("gemma-270m", "compand", name, threads, result))
        if theirs:
            out.append(row("gemma-270m", "llama.cpp", pathlib.Path(args.gguf).stem.rpartition("-")[2].upper(), threads, {
                "prompt_tok_s": theirs["llama_prompt"], "decode_tok_s": theirs["llama_decode"], "read_gb_s": result["read_gb_s"]}))
            others = {}
    return out


def synthetic_hf(args) -> tuple:
    """The shape of 252 million weights in transformers: bfloat16, and on random codes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from compand.hf import CodedLinear, run_natively

    config = LlamaConfig(**{k: v for k, v in CONFIG.items() if k not in ("model_type", "architectures")}, eos_token_id=None)
    models: dict[str, object] = {"bfloat16": LlamaForCausalLM(config).to(torch.bfloat16).eval()}
    rng = np.random.default_rng(0)
    for spec in args.specs.split(";") if args.specs else ["int:4:group=64", "hadamard,trellis:3"]:
        with torch.device("meta"):
            model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
        model.load_state_dict(models["bfloat16"].state_dict(), assign=True)
        model.model.rotary_emb = models["bfloat16"].model.rotary_emb
        for name, module in list(model.named_modules()):
            if isinstance(module, torch.nn.Linear):
                layer = CodedLinear(module.in_features, module.out_features, spec)
                parts = coded(spec, (module.out_features, module.in_features), rng).blocks[0].parts
                for buffer, (key, _, _) in layer.places.items():
                    setattr(layer, buffer, torch.from_numpy(np.ascontiguousarray(parts[key.removeprefix("part:")]).view(np.uint8)))
                model.set_submodule(name, layer)
        run_natively(model)
        models[spec] = model
    return models, CONFIG["vocab_size"]


def gemma_hf(args) -> tuple:
    """Gemma in transformers: bfloat16, and coded while it is loaded."""
    import torch
    from transformers import AutoModelForCausalLM

    from compand.hf import CompandConfig

    folder = pathlib.Path(args.gemma)
    made = pathlib.Path(args.work) / f"{folder.name}-hf"
    if not (made / "config.json").exists():
        config = CompandConfig(spec="int:4:group=64", head=True)
        AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.bfloat16).save_pretrained(made)
    models = {name: AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
              for name, path in (("bfloat16", folder), ("int:4:group=64", made))}
    return models, models["bfloat16"].config.vocab_size


def hugging(shape: str, models: dict, vocabulary: int, threads: int, args, tokens: int = 12) -> list[dict]:
    """Tokens a second of generate after a prompt of 64, the models in turn: plain, on codes, and on codes without native layers."""
    import torch

    from compand.hf import run_natively, share_threads

    torch.set_num_threads(threads)
    share_threads()
    ids = torch.arange(64)[None] % vocabulary

    def generate(model, count: int) -> np.ndarray:
        begin = time.perf_counter(), time.process_time()
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)
        return np.array([time.perf_counter(), time.process_time()]) - begin

    for model in models.values():
        model.generation_config.eos_token_id = None
    kinds = [(name, native) for name in models for native in ((True, False) if name != "bfloat16" else (False,))]
    found: dict[tuple[str, bool], list[np.ndarray]] = {}
    for turn in range(args.rounds + 1):
        for name, native in kinds:
            run_natively(models[name], native)
            each = (generate(models[name], tokens + 1) - generate(models[name], 1)) / tokens
            if turn:
                found.setdefault((name, native), []).append(np.maximum(each, 1e-9))
    share_threads(False)  # torch does nothing beside what is timed after this
    out = []
    for name, native in kinds:
        ratios = np.array(found["bfloat16", False]) / np.array(found[name, native])
        seconds = np.median(found[name, native], axis=0)
        program = "transformers" if name == "bfloat16" else "compand.hf" if native else "compand.hf, products only"
        out.append(row(shape, program, name, threads, {
            "decode_tok_s": 1 / seconds[0], "cpu_ms": 1e3 * seconds[1], "of_bfloat16": float(np.median(ratios[:, 0])),
            "of_bfloat16_cpu": float(np.median(ratios[:, 1]))}))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["synthetic"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--llama")
    parser.add_argument("--gguf", help="Gemma in llama.cpp's form")
    parser.add_argument("--gemma")
    parser.add_argument("--coded", help="Gemma in a .cpd file")
    parser.add_argument("--specs", help="only these, with ; between them")
    parser.add_argument("--hf", nargs="?", const="too", choices=["too", "only"])
    parser.add_argument("--work", default="build/run", help="where files of llama.cpp and of codes are made")
    parser.add_argument("--limited", action="store_true", help="only the memory of the synthetic model where there is little")
    parser.add_argument("--table", action="store_true", help="only print the table of docs/run.md, from the rows that are there")
    args = parser.parse_args()
    if args.table:
        print(table())
        return
    pathlib.Path(args.work).mkdir(parents=True, exist_ok=True)
    for threads in map(int, args.threads.split(",")):
        _native.set_threads(threads)
        for what in args.what:
            if args.hf:
                shape, models = {"synthetic": ("synthetic", synthetic_hf), "gemma": ("gemma-270m", gemma_hf)}[what]
                keep(hugging(shape, *models(args), threads, args), args)
            if args.limited:
                keep(limited(args, threads), args)
                continue
            if args.hf != "only":
                keep({"synthetic": synthetic, "gemma": gemma}[what](args, threads), args)


def table() -> str:
    """The rows of the 252 million weights on two threads as the table of docs/run.md, with the read of memory of the same rounds."""
    rows = [r for r in record.rows("run") if r["model"] == "synthetic" and r["threads"] == 2 and r["program"] in ("compand", "llama.cpp")]
    lines = ["| weights | bits | program | tokens/s | prompt of 64, tokens/s | GB/s | read, GB/s | of it |", "|---" * 8 + "|"]
    for r in sorted(rows, key=lambda r: -r["bits"]):
        lines.append(f"| `{r['weights']}` | {r['bits']:.2f} | {r['program']} | {r['decode_tok_s']:.0f} | {r['prompt_tok_s']:.0f} | "
                     f"{r['gb_s']:.1f} | {r['read_gb_s']:.1f} | {r['gb_s'] / r['read_gb_s']:.2f} |")
    return "\n".join(lines)


def keep(rows: list[dict], args) -> None:
    """Put rows into the file of results in place of those of the same name."""
    def key(r: dict) -> tuple:
        return r["model"], r["program"], r["weights"], r["threads"]

    fresh = {key(r) for r in rows}
    kept = [r for r in record.dated_rows("run") if key(r) not in fresh]
    print(record.save("run", kept + rows, rounds=args.rounds))


if __name__ == "__main__":
    main()
