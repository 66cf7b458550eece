"""A LangChain vector store on compressed vectors. Needs the extra `langchain`."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

try:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import VectorStore
except ImportError:
    raise ImportError("the LangChain vector store needs langchain-core: pip install 'compand[langchain]'") from None

from ..codec import Codec
from .store import Store

Filter = dict[str, Any] | Callable[[Document], bool]


class CompandVectorStore(VectorStore):
    """Documents found by their embeddings, which are kept as codes in a .cpd file.

    Parameters
    ----------
    embedding : Embeddings
    path : path of the index; it and PATH.db are made when documents are added, and opened if there
    codec : str or Codec
        As of `Store`: "int:8" needs no fit; others are fitted to the first documents, or give a fitted `Codec`.

    Scores are cosines. ``filter`` of the searches is a dict of metadata that must be equal, or a function of a `Document`.
    """

    def __init__(self, embedding: Embeddings, path, codec: str | Codec = "int:8"):
        self._embedding, self.store = embedding, Store(path, codec)

    @property
    def embeddings(self) -> Embeddings:
        return self._embedding

    def add_texts(self, texts: Iterable[str], metadatas: list[dict] | None = None, *, ids: list[str] | None = None, **kwargs) -> list[str]:
        texts = list(texts)
        ids = [i or str(uuid.uuid4()) for i in ids] if ids else [str(uuid.uuid4()) for _ in texts]
        payloads = [{"text": t, "metadata": m or {}} for t, m in zip(texts, metadatas or [{}] * len(texts), strict=True)]
        if texts:
            self.store.put(ids, self._embedding.embed_documents(texts), payloads)
        return ids

    def delete(self, ids: list[str] | None = None, **kwargs) -> bool:
        self.store.delete(self.store.where(lambda _: True) if ids is None else ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        return [_document(i, p) for i, p in self.store.get(ids).items()]

    def similarity_search_with_score_by_vector(self, embedding: list[float], k: int = 4, filter: Filter | None = None,
                                               **kwargs) -> list[tuple[Document, float]]:
        """Documents and cosines of the nearest to a vector."""
        ids = None if filter is None else self.store.where(_test(filter))
        return [(_document(i, p), s) for i, s, p in self.store.search(embedding, k, ids)]

    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs) -> list[tuple[Document, float]]:  # type: ignore[override]
        return self.similarity_search_with_score_by_vector(self._embedding.embed_query(query), k, **kwargs)

    def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **kwargs) -> list[Document]:
        return [d for d, _ in self.similarity_search_with_score_by_vector(embedding, k, **kwargs)]

    def similarity_search(self, query: str, k: int = 4, **kwargs) -> list[Document]:
        return [d for d, _ in self.similarity_search_with_score(query, k, **kwargs)]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda cosine: min(max((1 + cosine) / 2, 0.0), 1.0)

    @classmethod
    def from_texts(cls, texts: list[str], embedding: Embeddings, metadatas: list[dict] | None = None, *, ids: list[str] | None = None,
                   path, codec: str | Codec = "int:8", **kwargs) -> CompandVectorStore:
        """A store at ``path`` with these texts."""
        store = cls(embedding, path, codec)
        store.add_texts(texts, metadatas, ids=ids)
        return store


def _document(id_: str, payload: dict) -> Document:
    return Document(id=id_, page_content=payload["text"], metadata=payload["metadata"])


def _test(filter: Filter) -> Callable[[dict], bool]:
    if callable(filter):
        return lambda p: filter(_document("", p))
    return lambda p: all(p["metadata"].get(key) == value for key, value in filter.items())
