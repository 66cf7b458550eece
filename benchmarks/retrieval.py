"""Claim: each method of trained compact retrieval does on real text what its paper says, or the table says that it does not.

A frozen MiniLM encoder (384-d) and small heads on it. Documents: Vaswani (a part) and Cranfield; a document's vector is the mean of
those of its first 12 words and of the rest. Heads are trained without judgements: the first words ask, the rest answers. Judged
queries are for the test, except where a method needs labels (then folds of the queries). There is no cross-encoder
here: the sum of BM25 and the cosine stands in for one, a teacher that sees the words of both texts. Means of three seeds.

    python benchmarks/retrieval.py --cache FOLDER [--data DIR] [--only matryoshka,...]      (FOLDER as made by texts.py)
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import re
from collections import Counter

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from record import RESULTS, save, table  # noqa: E402
from texts import HEAD, collection, similar, vectors  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import compand  # noqa: E402
from compand.fit.cur import Cur  # noqa: E402
from compand.fit.kmeans import kmeans  # noqa: E402
from compand.torch.binary import Compatible, ResidualBinary  # noqa: E402
from compand.torch.keyvalue import KeyValue  # noqa: E402
from compand.torch.loss import CentroidTriplet, DecoupledSoftmax, Matryoshka, PartialRanking, Simplex, SoftTopK  # noqa: E402
from compand.torch.product import BalancedProduct  # noqa: E402
from compand.transform.klt import Klt  # noqa: E402

SEEDS, BATCH = (0, 1, 2), 512


def unit(x):
    return F.normalize(torch.as_tensor(x), dim=1)


class Collection:
    def __init__(self, name: str, data: pathlib.Path, found: dict):
        self.name = name
        self.documents, self.queries, self.grades = collection(data, name)
        self.head, self.rest, self.query = (unit(found[f"{name}/{part}"]) for part in ("head", "rest", "query"))
        self.document = unit(self.head + self.rest)
        self.asked = sorted(self.grades)

    def ndcg(self, scores, asked=None, k: int = 10) -> float:
        """Mean nDCG@k of scores (queries, documents), graded."""
        total, asked = [], self.asked if asked is None else asked
        for q in asked:
            grades = self.grades[q]
            best = np.argsort(-np.asarray(scores[q]), kind="stable")[:k]
            gain = sum(grades.get(int(d), 0) / math.log2(i + 2) for i, d in enumerate(best))
            ideal = sum(g / math.log2(i + 2) for i, g in enumerate(sorted(grades.values(), reverse=True)[:k]))
            total.append(gain / ideal)
        return float(np.mean(total))


def contrast(a, b, temperature: float = 0.05):
    return F.cross_entropy(unit(a) @ unit(b).T / temperature, torch.arange(len(a)))


def train(parameters, loss, n: int, seed: int, epochs: int = 15, rate: float = 1e-3) -> None:
    """``loss(rows)`` on shuffled batches of row numbers."""
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(list(parameters), rate, weight_decay=0.01)
    for _ in range(epochs):
        order = torch.from_numpy(rng.permutation(n))
        for at in range(0, max(n - BATCH, 0) + 1, BATCH):
            optimizer.zero_grad()
            loss(order[at:at + BATCH]).backward()
            optimizer.step()


def linear(d: int, out: int, seed: int, rotated: bool = False) -> nn.Linear:
    torch.manual_seed(seed)
    layer = nn.Linear(d, out, bias=False)
    with torch.no_grad():
        nn.init.orthogonal_(layer.weight) if rotated or out < d else layer.weight.copy_(torch.eye(out, d))
    return layer


def spearman(a, b) -> float:
    ranks = [np.argsort(np.argsort(v)) for v in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


# -- the experiments: each gives rows of (setting, {measure: value}) --------------------------------------------------------------
def matryoshka(both, pairs):
    heads, rests = (torch.cat([getattr(c, part) for c in both]) for part in ("head", "rest"))
    a, b, human = pairs

    def measured(f):
        out = {}
        for m in (32, 64, 128, 384):
            for c in both:
                out[f"nDCG {c.name} {m}-d"] = c.ndcg(unit(f(c.query)[:, :m]) @ unit(f(c.document)[:, :m]).T)
            cosine = (unit(f(a)[:, :m]) * unit(f(b)[:, :m])).sum(1)
            out[f"Spearman SICK {m}-d"] = spearman(cosine.detach().numpy(), human)
        return out

    yield "first columns of the encoder", measured(lambda x: x)
    klt = Klt(power=0.0).fit(torch.cat([heads, rests]).numpy())
    yield "principal directions", measured(lambda x: torch.from_numpy(klt.forward(x.numpy())[0]))
    for name, dims in (("head, contrastive loss of all columns", (384,)), ("head, Matryoshka", (32, 64, 128, 384))):
        runs = []
        for seed in SEEDS:
            head, loss = linear(384, 384, seed), Matryoshka(contrast, dims)
            train(head.parameters(), lambda i, head=head, loss=loss: loss(head(heads[i]), head(rests[i])), len(heads), seed)
            with torch.no_grad():
                runs.append(measured(head))
        yield name, mean(runs)


def simplex(both, pairs):
    """Version 1 learns on a part of the topics, version 2 on all, from another start; classes are k-means topics of documents."""
    c = both[0]
    x = torch.cat([c.head, c.rest])
    _, topic = kmeans(c.document.numpy(), 128, init="++")
    label = torch.from_numpy(np.concatenate([topic, topic]).astype(np.int64))
    for name in ("trained apart: own classifier each", "fixed simplex corners"):
        runs = []
        for seed in SEEDS:
            version = []
            for v, known in enumerate((label < 64, label < 128)):
                torch.manual_seed(10 * seed + v)
                net = nn.Sequential(nn.Linear(384, 512), nn.ReLU(), nn.Linear(512, 384))
                top = Simplex(384, scale=16) if name.startswith("fixed") else nn.Linear(384, 128)
                rows = torch.nonzero(known)[:, 0]

                def loss(i, net=net, top=top, rows=rows):
                    return F.cross_entropy(top(unit(net(x[rows[i]]))), label[rows[i]])

                train([*net.parameters(), *top.parameters()], loss, len(rows), seed, 12)
                version.append(net)
            with torch.no_grad():
                q, d = ([unit(net(part)) for net in version] for part in (c.query, c.document))
                runs.append({f"nDCG {c.name} {text}": c.ndcg(q[i] @ d[j].T)
                             for text, i, j in (("old on old", 0, 0), ("new on old", 1, 0), ("new on new", 1, 1))})
        yield name, mean(runs)


def bebr(both, pairs):
    """128 bits: 64 + 64. Version 2 is of an encoder whose columns are turned: nothing of version 1 fits it."""
    c = both[0]
    turn = linear(384, 384, 99, rotated=True)
    with torch.no_grad():
        turned = [unit(torch.tanh(3 * turn(part))) for part in (c.head, c.rest, c.query, c.document)]
    plain = [c.head, c.rest, c.query, c.document]
    runs = []
    for seed in SEEDS:
        layer = linear(384, 128, seed)
        with torch.no_grad():
            q, d = (torch.sign(layer(part)) for part in (c.query, c.document))
            runs.append({f"nDCG {c.name} own": c.ndcg(q @ d.T)})
    yield "signs of 128 random directions", mean(runs)
    own, apart, compatible = [], [], []
    for seed in SEEDS:
        torch.manual_seed(seed)
        old = ResidualBinary(384, 64, loops=1)
        train(old.parameters(), lambda i, old=old: contrast(old(plain[0][i]), old(plain[1][i])), len(c.head), seed)
        with torch.no_grad():
            past, documents = old(plain[1]), old(plain[3])
            own.append({f"nDCG {c.name} own": c.ndcg(old(plain[2]) @ documents.T)})
        for weight, into in ((0.0, apart), (1.0, compatible)):
            torch.manual_seed(seed + 100)
            new, both_versions = ResidualBinary(384, 64, loops=1), Compatible(weight=weight)

            def loss(i, new=new, both_versions=both_versions, past=past):
                return both_versions(new(turned[0][i]), new(turned[1][i]), past[i])

            train(new.parameters(), loss, len(c.head), seed, 30)
            with torch.no_grad():
                q = new(turned[2])
                into.append({f"nDCG {c.name} own": c.ndcg(q @ new(turned[3]).T), f"nDCG {c.name} new on old": c.ndcg(q @ documents.T)})
    yield "BEBR 64 + 64 bits, version 1", mean(own)
    yield "BEBR version 2, not compatible", mean(apart)
    yield "BEBR version 2, compatible", mean(compatible)


def repconc(both, pairs):
    """12 bytes a document: 12 parts of 256 codewords."""
    heads = torch.cat([c.head for c in both])
    documents = torch.cat([c.document for c in both])
    runs = []
    for c in both:
        codec = compand.Codec("opq:12,pq:12x8").fit(documents.numpy())
        runs.append({f"nDCG {c.name}": c.ndcg(c.query @ torch.from_numpy(codec.decode(codec.encode(c.document.numpy()))).T)})
    yield "OPQ after training", {k: v for run in runs for k, v in run.items()}
    for name, balanced in (("joint, nearest codewords", False), ("joint, balanced codewords (RepCONC)", True)):
        runs = []
        for seed in SEEDS:
            torch.manual_seed(seed)
            query, document, codes = linear(384, 384, seed), linear(384, 384, seed), BalancedProduct(384, 12)
            codes.start(documents)

            def loss(i, query=query, document=document, codes=codes, balanced=balanced):
                codes.train(balanced)
                x = document(documents[i])
                if balanced:
                    y, error = codes(x)
                else:
                    near = torch.cat([codes.codewords[p][own] for p, own in enumerate(codes.ids(x).T)], dim=1)
                    y, error = near + (x - x.detach()), (near - x).square().sum(1).mean()
                return contrast(query(heads[i]), y) + 0.5 * error

            train([*query.parameters(), *document.parameters(), *codes.parameters()], loss, len(heads), seed, 6)
            with torch.no_grad():
                codes.eval()
                runs.append({f"nDCG {c.name}": c.ndcg(unit(query(c.query)) @ unit(codes(document(c.document))[0]).T) for c in both})
        yield name, mean(runs)


def dexml(both, pairs):
    """Queries with many positives: four folds of Cranfield's judged queries, a shared linear head."""
    c = next(c for c in both if c.name == "cranfield")
    yield "frozen encoder", {"nDCG cranfield": c.ndcg(c.query @ c.document.T)}
    positive = torch.zeros(len(c.query), len(c.document), dtype=torch.bool)
    for q, grades in c.grades.items():
        positive[q, list(grades)] = True

    def softmax(scores, positive):
        return -(F.log_softmax(scores / 0.05, dim=1) * positive).sum() / positive.sum()

    for name, loss in (("softmax", softmax), ("decoupled softmax", DecoupledSoftmax()), ("soft top-10", SoftTopK(10))):
        runs = []
        for seed in SEEDS:
            fold = np.random.default_rng(seed).permutation(c.asked)
            total = []
            for f in range(4):
                test = fold[f::4]
                learn = torch.from_numpy(np.setdiff1d(fold, test))
                head = linear(384, 384, seed)
                optimizer = torch.optim.AdamW(head.parameters(), 3e-4, weight_decay=0.01)
                for _ in range(30):
                    optimizer.zero_grad()
                    loss(unit(head(c.query[learn])) @ unit(head(c.document)).T, positive[learn]).backward()
                    optimizer.step()
                with torch.no_grad():
                    total.append(c.ndcg(unit(head(c.query)) @ unit(head(c.document)).T, test.tolist()))
            runs.append({"nDCG cranfield": float(np.mean(total))})
        yield name, mean(runs)


def centroids(both, pairs):
    """Classes are Cranfield's judged queries: is a document nearest to the centroid of the others of its class? Half of them train."""
    c = next(c for c in both if c.name == "cranfield")
    own = {d: q for q, grades in sorted(c.grades.items()) for d in grades}  # a document of several: the last
    count = Counter(own.values())
    rows = torch.tensor([d for d in sorted(own) if count[own[d]] > 2])
    label = torch.tensor([own[int(d)] for d in rows])

    def accuracy(x, label):
        right = []
        sums = {int(k): x[label == k].sum(0) for k in label.unique()}
        many = Counter(label.tolist())
        for v, k in zip(x, label.tolist(), strict=True):
            near = {j: ((s - v) / (many[j] - 1) if j == k else s / many[j]) for j, s in sums.items()}
            right.append(min(near, key=lambda j: float((near[j] - v).square().sum())) == k)
        return float(np.mean(right))

    def pairwise(z, y):
        same = (y[:, None] == y) & ~torch.eye(len(y), dtype=torch.bool)
        return -(F.log_softmax((z @ z.T / 0.05).fill_diagonal_(-1e4), 1) * same).sum(1).mean()

    runs = {"frozen encoder": [], "contrastive pairs": [], "centroid triplet": []}
    for seed in SEEDS:
        classes = np.random.default_rng(seed).permutation(label.unique().numpy())
        learn = torch.isin(label, torch.from_numpy(classes[::2]))
        x, y, test, tested = c.document[rows[learn]], label[learn], c.document[rows[~learn]], label[~learn]
        runs["frozen encoder"].append({"nearest centroid": accuracy(test, tested)})
        for name, loss in (("contrastive pairs", pairwise), ("centroid triplet", CentroidTriplet(0.3))):
            head = linear(384, 384, seed)
            train(head.parameters(), lambda i, head=head, loss=loss, x=x, y=y: loss(unit(head(x[i])), y[i]), len(x), seed, 40, 3e-4)
            with torch.no_grad():
                runs[name].append({"nearest centroid": accuracy(unit(head(test)), tested)})
    for name, own_runs in runs.items():
        yield name, mean(own_runs)


class Bm25:
    """Okapi BM25 of documents; no stemming, no stop words."""

    def __init__(self, documents: list[str], k: float = 1.2, b: float = 0.75):
        from scipy import sparse

        words = [re.findall(r"[a-z0-9]+", d.lower()) for d in documents]
        self.number = {w: i for i, w in enumerate(sorted({w for d in words for w in d}))}
        size = np.array([len(w) for w in words], np.float64)
        entries = [(i, self.number[w], n) for i, d in enumerate(words) for w, n in Counter(d).items()]
        i, j, n = map(np.array, zip(*entries, strict=True))
        idf = np.log(1 + (len(words) - np.bincount(j) + 0.5) / (np.bincount(j) + 0.5))
        value = idf[j] * n * (k + 1) / (n + k * (1 - b + b * size[i] / size.mean()))
        self.table = sparse.csr_matrix((value, (i, j)), (len(words), len(self.number)))

    def scores(self, queries: list[str]) -> np.ndarray:
        from scipy import sparse

        rows = [[self.number[w] for w in re.findall(r"[a-z0-9]+", q.lower()) if w in self.number] for q in queries]
        counts = sparse.csr_matrix((np.ones(sum(map(len, rows))), np.concatenate([np.array(r, int) for r in rows]),
                                    np.cumsum([0, *map(len, rows)])), (len(rows), len(self.number)))
        return (counts @ self.table.T).toarray()


def teacher(c: Collection, queries: list[str], x) -> np.ndarray:
    """The stand-in for a cross-encoder: BM25 (of the best of a query) + cosine."""
    bm25 = Bm25(c.documents).scores(queries)
    return bm25 / np.maximum(bm25.max(1, keepdims=True), 1e-9) + (x @ c.document.T).numpy()


def cprd(both, pairs):
    """A 64-d student learns from the 24 best of each document's first words, as the teacher ranks them."""
    for c in both:
        scores = teacher(c, c.queries, c.query)
        yield f"{c.name}: teacher", {"nDCG": c.ndcg(scores)}
        ask = [" ".join(d.split()[:HEAD]) for d in c.documents]
        told = torch.from_numpy(teacher(c, ask, c.head)).float()
        near = torch.topk(c.head @ c.document.T, 24).indices
        ranked = told.gather(1, near)
        own = torch.arange(len(near))
        for name in ("contrastive", "contrastive + partial ranking"):
            runs = []
            for seed in SEEDS:
                head, ranking = linear(384, 64, seed), PartialRanking()

                def loss(i, head=head, ranking=ranking, near=near, ranked=ranked, own=own, name=name, c=c):
                    q = unit(head(c.head[i]))
                    value = F.cross_entropy(q @ unit(head(c.document[i])).T / 0.05, own[:len(i)])
                    if name == "contrastive":
                        return value
                    keep = torch.topk(ranked[i], 8).values[:, -1:]  # the hard ones, in the teacher's order; the others are easy
                    told = ranked[i].masked_fill(ranked[i] < keep, -torch.inf)
                    return value + ranking(torch.einsum("nd,nkd->nk", q, F.normalize(head(c.document[near[i]]), dim=-1)), told)

                train(head.parameters(), loss, len(own), seed, 15)
                with torch.no_grad():
                    runs.append({"nDCG": c.ndcg(unit(head(c.query)) @ unit(head(c.document)).T)})
            yield f"{c.name}: {name}", mean(runs)


def cur(both, pairs):
    """The teacher's own ten best documents of a query, found with so many calls of it."""
    for c in both:
        asked = np.random.default_rng(0).permutation(len(c.head))[:400]
        known = teacher(c, [" ".join(c.documents[i].split()[:HEAD]) for i in asked], c.head[asked])
        truth = teacher(c, c.queries, c.query)
        best = np.argsort(-truth, axis=1)[:, :10]
        dense, mine = (c.query @ c.document.T).numpy(), (c.head[asked] @ c.document.T).numpy()
        for calls in (100, 200):
            def found(first, calls=calls, best=best):
                return float((first[:, :, None] == best[:, None, :]).any(1).mean())

            nearest = np.argsort(-dense, axis=1)[:, :calls]
            yield f"{c.name}: {calls} calls, all on the nearest by cosine", {"recall@10 of the teacher": found(nearest)}
            for text, base, cheap in ((", half on anchors (CUR)", 0, 0), (", half on anchors, CUR of what the cosine misses", mine, dense)):
                runs = []
                for seed in SEEDS:
                    own = Cur(known - base, calls // 2, seed=seed)
                    guess = own.scores((truth - cheap)[:, own.anchors]) + cheap
                    guess[:, own.anchors] = -np.inf
                    first = np.argsort(-guess, axis=1)[:, :calls - calls // 2]
                    anchors = np.broadcast_to(own.anchors, (len(first), len(own.anchors)))
                    runs.append({"recall@10 of the teacher": found(np.concatenate([first, anchors], axis=1))})
                yield f"{c.name}: {calls} calls{text}", mean(runs)


def keyvalue(both, pairs):
    """Ten digits, one class after the other, features frozen (the 64 first principal directions of pixels); accuracy at the end."""
    with np.load(both[0].data / "vision" / "mnist-20k-10k.npz") as file:
        pixels = [file[name].reshape(len(file[name]), -1).astype(np.float32) / 255 for name in ("x_train", "x_test")]
        label, tested = (torch.from_numpy(file[name].astype(np.int64)) for name in ("y_train", "y_test"))
    klt = Klt(64, power=0.0).fit(pixels[0])
    learn, test = (torch.from_numpy(klt.forward(x)[0]) for x in pixels)
    for name in ("linear layer", "two layers", "discrete keys and values"):
        for order in ("classes mixed", "one class after the other"):
            runs = []
            for seed in SEEDS[:1]:
                torch.manual_seed(seed)
                model = {"linear layer": lambda: nn.Linear(64, 10),
                         "two layers": lambda: nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)),
                         "discrete keys and values": lambda: KeyValue(learn[:8000], 10, heads=64, k=256, width=8)}[name]()
                rate = 3e-3 if name != "discrete keys and values" else 0.1
                for k in [None] if order == "classes mixed" else range(10):
                    rows = torch.arange(len(learn)) if k is None else torch.nonzero(label == k)[:, 0]
                    ids = learn[rows] if rate < 0.1 else model.ids(learn[rows])
                    run = model if rate < 0.1 else (lambda i, m=model: m.values.gather(1, i[:, :, None].expand(-1, -1, 10)).mean(0))
                    train(model.parameters(), lambda i, rows=rows, ids=ids, run=run, rate=rate:
                          F.cross_entropy(run(ids[i] if rate < 0.1 else ids[:, i]), label[rows[i]]), len(rows), seed, 4, rate)
                with torch.no_grad():
                    runs.append({"accuracy": float((model(test).argmax(1) == tested).float().mean())})
            yield f"{name}, {order}", mean(runs)


def mean(runs: list[dict]) -> dict:
    return {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}


EXPERIMENTS = {f.__name__: f for f in (matryoshka, simplex, bebr, repconc, dexml, centroids, cprd, cur, keyvalue)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default=os.environ.get("COMPAND_DATA", pathlib.Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--cache", required=True)
    parser.add_argument("--only", default=",".join(EXPERIMENTS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = pathlib.Path(args.data)
    found = vectors(pathlib.Path(args.cache), data)
    both = [Collection(name, data, found) for name in ("vaswani", "cranfield")]
    for c in both:
        c.data = data
    pairs = unit(found["similar/a"]), unit(found["similar/b"]), similar(data)[2]
    path, rows = RESULTS / "retrieval.json", []
    wanted = args.only.split(",")
    if path.exists():
        rows = [row for row in json.loads(path.read_text())["rows"] if row["experiment"] not in wanted]
    for name in wanted:
        own = [{"experiment": name, "setting": setting, **measures} for setting, measures in EXPERIMENTS[name](both, pairs)]
        print(table(own), flush=True)
        rows += own
        save("retrieval", sorted(rows, key=lambda row: list(EXPERIMENTS).index(row["experiment"])), seeds=len(SEEDS),
             documents={c.name: len(c.documents) for c in both}, queries={c.name: len(c.asked) for c in both})


if __name__ == "__main__":
    main()
