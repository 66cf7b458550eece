"""Whisper at a few bits: how many transcripts stay as they are, with every byte of the file counted.

    python benchmarks/speech.py MODEL DATA [--specs SPEC ...] [--tuned SPEC ...] [--planned BITS ...] [--clips 50]

--specs are fitted only, --tuned also tuned, --planned are bits a value shared among the weights, and tuned. Rows of the JSON that are not
measured again are kept.
MODEL is a model folder, or one of CTranslate2's (model.bin, or model.bin.part1 and .part2 of packages side by side).
DATA holds audio/librispeech-train-clean (fitted to) and audio/librispeech-test-other (measured on).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import struct
import tempfile
import time

import numpy as np
import record

from compand.integration import clips as recordings
from compand.integration import speech
from compand.integration.language import as_folder


def variables(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of CTranslate2's model.bin, version 6."""
    at, found = 0, {}

    def take(form: str):
        nonlocal at
        value = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return value if len(value) != 1 else value[0]

    def text() -> str:
        nonlocal at
        n = take("H")
        at += n
        return data[at - n:at - 1].decode()

    version, _, _ = take("I"), text(), take("I")
    assert version == 6
    for _ in range(take("I")):
        name, rank = text(), take("B")
        shape = [take("I") for _ in range(rank)]
        kind, nbytes = take("B"), take("I")
        dtype = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2"}[kind]
        found[name] = np.frombuffer(data, dtype, nbytes // np.dtype(dtype).itemsize, at).reshape(shape)
        at += nbytes
    return found


def converted(source: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """A model folder of transformers from one of CTranslate2 (which fuses projections): the same float16 weights."""
    import torch
    from safetensors.numpy import save_file
    from transformers import GenerationConfig, WhisperConfig, WhisperTokenizer

    parts = sorted(source.glob("model.bin*")) + sorted(source.parent.parent.glob("*whisper*part2/data/model.bin.part2"))
    v = variables(b"".join(p.read_bytes() for p in parts))
    out = {}
    names = {"layer_norm/gamma": "layer_norm.weight", "layer_norm/beta": "layer_norm.bias"}

    def attention(old: str, new: str, norm: str) -> None:
        for k, own in names.items():
            out[f"{norm}.{own.partition('.')[2]}"] = v[f"{old}/{k}"]
        fused = [("linear_0", "qkv")] if f"{old}/linear_2/weight" not in v else [("linear_0", "q"), ("linear_1", "kv")]
        for linear, kinds in [*fused, (f"linear_{len(fused)}", "o")]:
            for part in ("weight", "bias"):
                for letter, x in zip(kinds, np.split(v[f"{old}/{linear}/{part}"], len(kinds)), strict=True):
                    if (letter, part) != ("k", "bias"):
                        out[f"{new}.{'out' if letter == 'o' else letter}_proj.{part}"] = x

    for side in ("encoder", "decoder"):
        layers = len({k.split("/")[1] for k in v if k.startswith(f"{side}/layer_") and k.split("/")[1] != "layer_norm"})
        for i in range(layers):
            old, new = f"{side}/layer_{i}", f"model.{side}.layers.{i}"
            attention(f"{old}/self_attention", f"{new}.self_attn", f"{new}.self_attn_layer_norm")
            if side == "decoder":
                attention(f"{old}/attention", f"{new}.encoder_attn", f"{new}.encoder_attn_layer_norm")
            for part in ("weight", "bias"):
                out[f"{new}.fc1.{part}"], out[f"{new}.fc2.{part}"] = (v[f"{old}/ffn/linear_{j}/{part}"] for j in (0, 1))
            for k, own in names.items():
                out[f"{new}.final_layer_norm.{own.partition('.')[2]}"] = v[f"{old}/ffn/{k}"]
        for k, own in names.items():
            out[f"model.{side}.{own}"] = v[f"{side}/{k}"]
        out[f"model.{side}.embed_positions.weight"] = v[f"{side}/position_encodings/encodings"]
    for i in (1, 2):
        for part in ("weight", "bias"):
            out[f"model.encoder.conv{i}.{part}"] = v[f"encoder/conv{i}/{part}"]
    out["model.decoder.embed_tokens.weight"] = v["decoder/embeddings/weight"]
    width = out["model.encoder.layer_norm.weight"].size
    sizes = {"_layers": layers, "_attention_heads": width // 64, "_ffn_dim": 4 * width}
    config = WhisperConfig(vocab_size=len(out["model.decoder.embed_tokens.weight"]), d_model=width, dtype=torch.float16,
                           architectures=["WhisperForConditionalGeneration"], pad_token_id=50257, bos_token_id=50257, eos_token_id=50257,
                           decoder_start_token_id=50258, **{side + k: n for side in ("encoder", "decoder") for k, n in sizes.items()})
    config.save_pretrained(folder)
    said = json.loads((source / "config.json").read_text())
    GenerationConfig(suppress_tokens=said["suppress_ids"], begin_suppress_tokens=said["suppress_ids_begin"], eos_token_id=50257,
                     pad_token_id=50257, decoder_start_token_id=50258).save_pretrained(folder)
    WhisperTokenizer(tokenizer_file=str(source / "tokenizer.json")).save_pretrained(folder)
    save_file({k: np.ascontiguousarray(x) for k, x in out.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def transcripts(kept: pathlib.Path, model: pathlib.Path, clips: list[np.ndarray]) -> list[str]:
    """What a model hears in clips, kept after every few."""
    found = json.loads(kept.read_text()) if kept.exists() else []
    own = speech.Recogniser(model) if len(found) < len(clips) else None
    while own and len(found) < len(clips):
        found += own.transcribe(clips[len(found):len(found) + 8])
        kept.write_text(json.dumps(found))
    return found[:len(clips)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--specs", nargs="*", default=[])
    parser.add_argument("--tuned", nargs="*", default=[])
    parser.add_argument("--planned", nargs="*", type=float, default=[])
    parser.add_argument("--effort", default="medium")
    parser.add_argument("--clips", type=int, default=50)
    parser.add_argument("--windows", type=int, default=50, help="clips that the layers are fitted to")
    parser.add_argument("--work", type=pathlib.Path, help="keep transcripts and files here, and use those that are there")
    parser.add_argument("--train", action="store_true", help="measure on the last clips of the training set: for development")
    args = parser.parse_args()
    train = list(recordings.read_all(args.data / "audio/librispeech-train-clean").values())
    test = list(recordings.read_all(args.data / "audio/librispeech-test-other").values())
    fitted, measured = (train[:args.windows], train[-args.clips:]) if args.train else (train[:args.windows], test[:args.clips])
    if args.work:
        args.work.mkdir(parents=True, exist_ok=True)
    with contextlib.nullcontext(args.work) if args.work else tempfile.TemporaryDirectory() as work:
        model = args.model if (args.model / "model.safetensors").exists() else converted(args.model, pathlib.Path(work, "whisper"))
        start = time.perf_counter()
        before = transcripts(pathlib.Path(work, "before.json"), model, measured)
        print(f"{len(measured)} clips in {time.perf_counter() - start:.0f} s: {before[:3]}", flush=True)
        asked = [*((s, "fitted") for s in args.specs), *((s, "tuned") for s in args.tuned),
                 *((f"{b:g} bits shared", "planned and tuned") for b in args.planned)]
        rows = [] if args.train else [r for r in record.rows("speech") if (r["spec"], r.setdefault("how", "fitted")) not in asked]
        for spec, how in asked:
            out, note = (pathlib.Path(work, f"{spec} {how}".replace(":", "_").replace(" ", "-") + end) for end in (".cpd", ".json"))
            if not (out.exists() and note.exists()):
                wanted = {"bits": float(spec.split()[0])} if how.startswith("planned") else spec
                done = speech.compress(model, out, wanted, fitted, tune=how != "fitted", effort="low" if how == "fitted" else args.effort,
                                       overwrite=True)
                note.write_text(json.dumps(done))
            result = json.loads(note.read_text())
            with as_folder(out) as folder:
                after = transcripts(out.with_suffix(".after.json"), folder, measured)
            rows.append({"spec": spec, "how": how, "bits": result["bits"], **speech.agreement(before, after), "seconds": result["seconds"]})
            print(record.table(rows[-1:]), *(f"- {a}\n+ {b}" for a, b in zip(before, after, strict=True) if a != b), sep="\n", flush=True)
            if not args.train:
                rows.sort(key=lambda r: (r["bits"], r["same"]))
                record.save("speech", rows, subject="Whisper base, float16", clips=len(measured),
                            fitted=f"{len(fitted)} clips of train-clean-100",
                            measured="LibriSpeech test-other")


if __name__ == "__main__":
    main()
