"""A LoRA adapter at a few bits: what is kept of what it learnt; and the output layer as codewords (VQ-Logits).

    python benchmarks/adapters.py STORIES DATA [--steps 300]

STORIES is the folder that `stories.py` makes. The adapter (rank 8, all linear layers) is trained on text/wikitext2-valid.txt.xz, which the
model does not know, and measured on text/wikitext2-test.txt.xz: nats a token, and the share of the gain that a compressed adapter keeps.
The output layer is measured on the end of text/calib-tiny.txt.xz, by KL divergence from the model as it is.
"""

from __future__ import annotations

import argparse
import lzma
import pathlib
import tempfile
import warnings

import numpy as np
import peft
import record
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from compand import Codec
from compand.integration import adapter_fit
from compand.modality import pack, unpack

warnings.filterwarnings("ignore")
SPECS = ("int:8", "int:4", "int:3", "int:2", *(f"ternary:keep={k},rans" for k in (0.5, 0.3, 0.2, 0.1, 0.05)), "sign")
CHANGES = ("int:4:group=64", "int:2:group=64", *(f"ternary:keep={k},rans" for k in (0.5, 0.3, 0.1)), "sign")
HEADS = ("int:8", "int:4", "hadamard,trellis:4:memory=12", *(f"vq:{k}" for k in (256, 128, 64)), *(f"vq:{k}+int:2" for k in (128, 64)),
         "vq:64+int:3")


def tokens(path: pathlib.Path, tokenizer, first: int, last: int | None) -> torch.Tensor:
    """Sequences of 256 tokens of a piece of a text."""
    words = lzma.open(path, "rt", errors="replace").read()[first:last]
    ids = tokenizer(words, add_special_tokens=False)["input_ids"]
    rows = torch.tensor(ids[:len(ids) // 255 * 255]).reshape(-1, 255)
    return torch.cat([torch.ones(len(rows), 1, dtype=rows.dtype), rows], dim=1)


@torch.no_grad()
def loss(net, ids) -> float:
    """Nats a token."""
    return float(np.mean([net(x, labels=x, use_cache=False).loss.item() for x in ids.split(8)]))


def trained(folder: pathlib.Path, ids, steps: int, out: pathlib.Path):
    """Train an adapter and save it."""
    torch.manual_seed(0)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear")
    net = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), config)
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=5e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, steps)
    for step in range(steps):
        x = ids[torch.randint(0, len(ids), (8,))]
        net(x, labels=x, use_cache=False).loss.backward()
        optimizer.step(), optimizer.zero_grad(), schedule.step()
        if step % 50 == 0:
            print(step, flush=True)
    net.save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stories", type=pathlib.Path)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.stories)
    base = AutoModelForCausalLM.from_pretrained(args.stories, dtype=torch.float32).eval()
    train, test = (tokens(args.data / f"text/wikitext2-{part}.txt.xz", tokenizer, 0, n) for part, n in (("valid", None), ("test", 40000)))
    rows = []
    with tempfile.TemporaryDirectory() as work:
        whole = pathlib.Path(work, "adapter")
        trained(args.stories, train, args.steps, whole)

        def with_adapter(folder) -> float:
            net = AutoModelForCausalLM.from_pretrained(args.stories, dtype=torch.float32)
            return loss(peft.PeftModel.from_pretrained(net, folder).eval(), test)

        before, after = loss(base, test), with_adapter(whole)
        size = (whole / "adapter_model.safetensors").stat().st_size
        rows += [{"subject": "adapter", "spec": "none", "bits": 0.0, "nats": before, "gain kept": 0.0},
                 {"subject": "adapter", "spec": "float32", "bits": 32.0, "bytes": size, "nats": after, "gain kept": 1.0}]
        for spec in SPECS:
            result = adapter_fit.compress(whole, f"{work}/a.cpd", spec, overwrite=True)
            back = pathlib.Path(work, spec.replace(":", "_"))
            unpack(f"{work}/a.cpd", back)
            found = with_adapter(back)
            rows.append({"subject": "adapter", "spec": spec, "bits": result["bits"], "bytes": result["bytes"], "nats": found,
                         "gain kept": (before - found) / (before - after), "error of the change": result["error"]})
        tuned, out = pathlib.Path(work, "tuned"), pathlib.Path(work, "tuned.cpd")
        net = AutoModelForCausalLM.from_pretrained(args.stories, dtype=torch.float32)
        peft.PeftModel.from_pretrained(net, whole).merge_and_unload().save_pretrained(tuned)
        for spec in CHANGES:
            report = pack(tuned, out, spec=spec, base=args.stories, overwrite=True)
            back = pathlib.Path(work, "back-" + spec.replace(":", "_"))
            unpack(out, back, base=args.stories)
            found = loss(AutoModelForCausalLM.from_pretrained(back, dtype=torch.float32).eval(), test)
            rows.append({"subject": "task vector", "spec": spec, "bits": 8 * report.file_bytes / sum(p.numel() for p in base.parameters()),
                         "bytes": report.file_bytes, "nats": found, "gain kept": (before - found) / (before - after)})
    print(record.table(rows), flush=True)
    ids = tokens(args.data / "text/calib-tiny.txt.xz", tokenizer, -20000, None)
    with torch.no_grad():
        hidden = torch.cat([base.model(x, use_cache=False).last_hidden_state for x in ids.split(8)]).reshape(-1, base.config.hidden_size)
        head = base.get_output_embeddings().weight
        wanted = (hidden @ head.T).log_softmax(-1)
        for spec in HEADS:
            codec = Codec(spec)
            w = head.numpy()
            codec = codec.fit(w) if codec.stage.state(codec.form(w.shape, "float32")) else codec
            codes = codec.encode(w)
            got = (hidden @ torch.from_numpy(np.array(codec.decode(codes))).T).log_softmax(-1)
            rows.append({"subject": "output layer", "spec": spec, "bits": 8 * len(codes.to_bytes()) / w.size,
                         "KLD": float((wanted.exp() * (wanted - got)).sum(-1).mean()),
                         "same next token": float((wanted.argmax(-1) == got.argmax(-1)).float().mean())})
    print(record.table([r for r in rows if r["subject"] == "output layer"]), flush=True)
    record.save("adapters", rows, model="stories260K", steps=args.steps, tokens=int(test.numel()))


if __name__ == "__main__":
    main()
