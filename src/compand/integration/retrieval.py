"""Retrieval collections in BEIR's layout, and how well an encoder's embeddings find what people judged relevant (nDCG@10)."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import FormatError, InputError
from .encoder import embed, is_encoder, open_encoder, takes_first
from .language import as_folder, rate

K, BLOCK = 10, 256
SPLITS = ("test", "dev", "train")


class Collection(NamedTuple):
    """Documents and queries by id, and for each judged query the grades of documents (0: judged, not relevant)."""

    documents: dict[str, str]
    queries: dict[str, str]
    grades: dict[str, dict[str, float]]


def is_collection(folder) -> bool:
    """Whether a path is a folder with corpus.jsonl (or .gz)."""
    return any(Path(folder, f"corpus.jsonl{end}").is_file() for end in ("", ".gz"))


def files(folder) -> list[Path]:
    """Documents, queries and judgements of a folder in BEIR's layout: corpus.jsonl, queries.jsonl (or .gz), qrels/test.tsv.

    Without test.tsv the judgements are those of dev.tsv, or train.tsv. Raises `InputError` for what is missing.
    """
    folder, found = Path(folder), []
    for wanted in (("corpus.jsonl", "corpus.jsonl.gz"), ("queries.jsonl", "queries.jsonl.gz"), tuple(f"qrels/{s}.tsv" for s in SPLITS)):
        path = next((folder / name for name in wanted if (folder / name).is_file()), None)
        if path is None:
            raise InputError(f"{folder}: no {wanted[0]}; a retrieval collection is a folder with corpus.jsonl, queries.jsonl and "
                             "qrels/test.tsv, as BEIR has them")
        found.append(path)
    return found


def read(folder) -> Collection:
    """The collection in a folder, as `files` finds it; only queries that have a relevant document are kept.

    A document's text is its title and its text; judgements are lines of query, document, grade (or of query, 0, document, grade, as TREC
    has them), with or without a heading. Raises `FormatError` for lines of another kind, `InputError` if nothing is judged.
    """
    corpus, asked, judged = files(folder)
    documents = {key: " ".join(f"{row.get('title') or ''} {row.get('text') or ''}".split()) for key, row in _rows(corpus)}
    queries = {key: " ".join(str(row.get("text") or "").split()) for key, row in _rows(asked)}
    grades: dict[str, dict[str, float]] = {}
    for number, line in enumerate(_text(judged).splitlines()):
        words = line.split()
        if not words or (number == 0 and words[0] in ("query-id", "query_id", "qid")):
            continue
        try:
            query, document, grade = words[0], words[-2], float(words[-1])
            if len(words) not in (3, 4) or not math.isfinite(grade):
                raise ValueError
        except (ValueError, IndexError):
            raise FormatError(f"{judged}, line {number + 1}: {line[:80]!r} is not query, document, grade") from None
        if query in queries and document in documents:
            grades.setdefault(query, {})[document] = max(grade, 0.0)
    grades = {q: own for q, own in grades.items() if any(own.values())}
    if not grades:
        raise InputError(f"{judged}: no query of {asked.name} has a relevant document of {corpus.name}")
    return Collection(documents, {q: queries[q] for q in grades}, grades)


def contents(folder) -> bytes:
    """Everything that decides what is measured, for a card."""
    return b"\0".join(path.read_bytes() for path in files(folder))


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", "replace")
    except (OSError, EOFError, ValueError) as e:
        raise FormatError(f"{path}: cannot be read ({e})") from None


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Objects of a file of JSON lines, with their ids."""
    for number, line in enumerate(_text(path).split("\n")):
        if line.strip():
            try:
                row = json.loads(line)
                yield str(row["_id"]), {**row}
            except (ValueError, TypeError, KeyError, RecursionError):
                raise FormatError(f"{path}, line {number + 1}: no JSON object with an _id and a text") from None


def ndcg(found: Mapping[str, Sequence[str]], grades: Mapping[str, Mapping[str, float]], k: int = K) -> float:
    """Mean normalised discounted cumulative gain of the first k documents found for each query, as trec_eval computes it.

    Gains are grades, discounts log₂(rank + 1) (Järvelin and Kekäläinen 2002). Every query of ``grades`` needs a relevant document.

    >>> ndcg({"q": ["b", "a"]}, {"q": {"a": 1.0}})
    0.6309297535714575
    """
    each = []
    for query, own in grades.items():
        gains = [own.get(d, 0.0) for d in found.get(query, ())[:k]]
        best = sorted(own.values(), reverse=True)[:k]
        each.append(sum(g / math.log2(i + 2) for i, g in enumerate(gains)) / sum(g / math.log2(i + 2) for i, g in enumerate(best)))
    return float(np.mean(each))


def nearest(queries: Mapping[str, np.ndarray], documents: np.ndarray, names: Sequence[str], k: int = K) -> dict[str, list[str]]:
    """The k documents of largest inner product with each query, but for one of the query's own name (BEIR leaves it out)."""
    found = {}
    keys, most = list(queries), min(k + 1, len(names))
    for at in range(0, len(keys), BLOCK):
        some = keys[at:at + BLOCK]
        scores = np.stack([queries[q] for q in some]) @ documents.T
        for query, row in zip(some, scores, strict=True):
            near = np.argpartition(-row, most - 1)[:most]
            near = near[np.lexsort((near, -row[near]))]
            found[query] = [name for i in near if (name := names[i]) != query][:k]
    return found


def prompts(folder) -> tuple[str, str]:
    """What a sentence-transformers folder puts before queries and documents; empty where it says nothing."""
    try:
        own = json.loads(Path(folder, "config_sentence_transformers.json").read_bytes())["prompts"]
        document = own.get("document") or own.get("passage") or own.get("corpus") or ""
        return str(own.get("query") or ""), str(document)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return "", ""


def evaluate(model, reference, collection: Collection, *, length: int = 256,
             progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """An encoder (folder or .cpd) against the one it came from, by what they retrieve.

    Returns ``bits`` (file bits a parameter), ``ndcg`` and ``ndcg_reference`` (nDCG@10 of all judged queries, in points), ``found``: the
    share of the original's ten documents of a query that are found again, and how many ``queries`` and ``documents`` there are.
    """
    each, names = [], list(collection.documents)
    texts = len(names) + len(collection.queries)
    with as_folder(model) as own, as_folder(reference) as other:
        for folder, path in ((own, model), (other, reference)):
            if not is_encoder(folder):
                raise InputError(f"{path} does not hold an encoder, so that it retrieves nothing")
        first, before = takes_first(other), prompts(other)
        for turn, folder in enumerate((other, own)):
            net = open_encoder(folder, (reference, model)[turn])

            def told(now: int, turn: int = turn) -> None:
                if progress:
                    progress(turn * texts + now, 2 * texts)

            asked, given = ([p + t for t in part.values()] for p, part in zip(before, collection[1::-1], strict=True))
            rows = embed(*net, asked + given, first=first, length=length, progress=told)
            each.append(nearest(dict(zip(collection.queries, rows, strict=False)), rows[len(collection.queries):], names))
        size = rate(model, other)
    kept = [len(set(a) & set(each[1][q])) / max(len(a), 1) for q, a in each[0].items()]
    return {**size, "ndcg": 100 * ndcg(each[1], collection.grades),
            "ndcg_reference": 100 * ndcg(each[0], collection.grades), "found": float(np.mean(kept)),
            "queries": len(collection.queries), "documents": len(names)}
