"""Vector-store adapters: LangChain and LlamaIndex."""

import numpy as np
import pytest

from compand import InputError
from compand.integration.store import Store

TEXTS = [f"{animal} {verb} in the {place}" for animal in ("cat", "dog", "owl", "eel") for verb in ("sleeps", "hunts", "plays")
         for place in ("garden", "river", "attic")]


def embed(text):
    """Words as fixed random directions."""
    return sum(np.random.default_rng([ord(c) for c in word]).standard_normal(32) for word in text.split())


def test_store(tmp_path):
    x = np.stack([embed(t) for t in TEXTS])
    ids = [f"t{i}" for i in range(len(TEXTS))]
    store = Store(tmp_path / "a.cpd")
    assert len(store) == 0 and store.search(x[0], 3) == [] and store.delete(["t1"]) == 0
    store.put(ids[:20], x[:20], TEXTS[:20])
    store.put(ids[15:], x[15:], TEXTS[15:])  # replaces and adds
    assert len(store) == 36
    store.close()
    store = Store(tmp_path / "a.cpd")
    assert [store.search(v, 1)[0][::2] for v in x] == [(i, t) for i, t in zip(ids, TEXTS, strict=True)]
    assert store.search(x[3], 1)[0][1] == pytest.approx(1, abs=0.01)
    assert store.search(x[3], 2, ids=["t7", "nobody"]) [0][0] == "t7"
    assert store.delete(["t3", "nobody"]) == 1 and store.get(["t3"]) == {} and "t3" not in [i for i, _, _ in store.search(x[3], 36)]
    for bad in [lambda: store.put(["a"], x[:2], ["x"]), lambda: store.put(["a"], x[:1] * np.nan, ["x"])]:
        with pytest.raises(InputError):
            bad()
    assert store.get(["a"]) == {}
    store.close()


def test_langchain(tmp_path):
    pytest.importorskip("langchain_core")
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings

    from compand.integration.langchain import CompandVectorStore

    class Words(Embeddings):
        def embed_documents(self, texts):
            return [embed(t).tolist() for t in texts]

        def embed_query(self, text):
            return embed(text).tolist()

    places = [{"place": t.split()[-1]} for t in TEXTS]
    store = CompandVectorStore.from_texts(TEXTS, Words(), places, path=tmp_path / "a.cpd", codec="klt,grouped:24")
    assert store.similarity_search("owl plays in the attic", k=1)[0].page_content == "owl plays in the attic"
    found = store.similarity_search_with_score("owl plays", k=3, filter={"place": "river"})
    assert all(d.metadata["place"] == "river" for d, _ in found) and found[0][0].page_content.startswith("owl plays")
    assert [s for _, s in found] == sorted([s for _, s in found], reverse=True)
    assert all("dog" in d.page_content for d in store.similarity_search("dog", k=5, filter=lambda d: "dog" in d.page_content))
    (own,) = store.add_documents([Document("a heron stands still", id="heron", metadata={})])
    assert own == "heron" and store.get_by_ids(["heron", "nobody"])[0].page_content == "a heron stands still"
    assert [d.id for d in store.as_retriever(search_kwargs={"k": 1}).invoke("heron stands")] == ["heron"]
    assert 0 <= store.similarity_search_with_relevance_scores("heron")[0][1] <= 1
    again = CompandVectorStore(Words(), tmp_path / "a.cpd")
    assert again.similarity_search("heron stands", k=1)[0].id == "heron"
    assert again.delete(["heron"]) and again.get_by_ids(["heron"]) == []
    assert again.delete() and again.similarity_search("owl") == []
    store.store.close(), again.store.close()


def test_llama_index(tmp_path):
    pytest.importorskip("llama_index.core")
    from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
    from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery

    from compand.integration.llama_index import CompandVectorStore

    nodes = [TextNode(id_=f"n{i}", text=t, embedding=embed(t).tolist(), metadata={"place": t.split()[-1]},
                      relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=t.split()[0])}) for i, t in enumerate(TEXTS)]
    store = CompandVectorStore(tmp_path / "a.cpd")
    assert store.add(nodes) == [n.node_id for n in nodes] and len(store.client) == 36
    again = CompandVectorStore(tmp_path / "a.cpd")

    def ask(text, k=1, **options):
        return again.query(VectorStoreQuery(query_embedding=embed(text).tolist(), similarity_top_k=k, **options))

    best = ask("owl plays in the attic")
    assert best.nodes[0].text == "owl plays in the attic" and best.similarities[0] > 0.99 and best.ids == [best.nodes[0].node_id]
    river = MetadataFilters(filters=[MetadataFilter(key="place", value="river")])
    assert {n.metadata["place"] for n in ask("owl", 5, filters=river).nodes} == {"river"}
    assert {n.ref_doc_id for n in ask("owl", 5, doc_ids=["cat"]).nodes} == {"cat"}
    assert ask("owl", 5, node_ids=["n3"]).ids == ["n3"] and ask("owl", 5, node_ids=[]).ids == []
    assert [n.text for n in again.get_nodes(["n4"])] == [TEXTS[4]]
    again.delete("cat")
    assert {n.ref_doc_id for n in ask("cat", 36).nodes} == {"dog", "owl", "eel"}
    again.delete_nodes(filters=river)
    assert len(again.get_nodes()) == 18
    again.clear()
    assert ask("cat").ids == []
    with pytest.raises(InputError, match="mode"):
        ask("cat", mode="mmr")
    store._store.close(), again._store.close()
