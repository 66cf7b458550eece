"""A LlamaIndex vector store on compressed vectors. Needs the extra `llamaindex`."""

from __future__ import annotations

from typing import Any

try:
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.schema import BaseNode
    from llama_index.core.vector_stores.types import (
        BasePydanticVectorStore,
        MetadataFilters,
        VectorStoreQuery,
        VectorStoreQueryMode,
        VectorStoreQueryResult,
    )
    from llama_index.core.vector_stores.utils import build_metadata_filter_fn, metadata_dict_to_node, node_to_metadata_dict
except ImportError:
    raise ImportError("the LlamaIndex vector store needs llama-index-core: pip install 'compand[llamaindex]'") from None

from ..codec import Codec
from ..errors import InputError
from .store import Store


class CompandVectorStore(BasePydanticVectorStore):
    """Nodes found by their embeddings, which are kept as codes in a .cpd file; the nodes themselves in PATH.db.

    ``codec`` is as of `Store`: "int:8" needs no fit; others are fitted to the first nodes that are added, or give a fitted `Codec`.
    Similarities are cosines; metadata filters, node_ids and doc_ids of a query are applied before the search.
    """

    stores_text: bool = True
    is_embedding_query: bool = True
    flat_metadata: bool = False
    _store: Store = PrivateAttr()

    def __init__(self, path, codec: str | Codec = "int:8"):
        super().__init__()
        self._store = Store(path, codec)

    @property
    def client(self) -> Any:
        """The `compand.Index`, None before the first nodes."""
        return self._store.index

    def add(self, nodes: list[BaseNode], **kwargs) -> list[str]:  # type: ignore[override]
        """Add nodes with embeddings, or replace those of the same id."""
        payloads = [{"node": node_to_metadata_dict(n, remove_text=False), "metadata": n.metadata, "document": n.ref_doc_id} for n in nodes]
        ids = [n.node_id for n in nodes]
        self._store.put(ids, [n.get_embedding() for n in nodes], payloads)
        return ids

    def delete(self, ref_doc_id: str, **kwargs) -> None:
        """Delete the nodes of a document."""
        self._store.delete(self._store.where(lambda p: p["document"] == ref_doc_id))

    def delete_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **kwargs) -> None:
        self._store.delete(self._ids(node_ids, None, filters))

    def clear(self) -> None:
        self._store.delete(self._ids(None, None, None))

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        return [metadata_dict_to_node(p["node"]) for p in self._store.get(self._ids(node_ids, None, filters)).values()]

    def query(self, query: VectorStoreQuery, **kwargs) -> VectorStoreQueryResult:
        """The nearest nodes. Raises `InputError` for modes other than the default."""
        if query.mode != VectorStoreQueryMode.DEFAULT:
            raise InputError(f"query mode {query.mode!r} is not there; use the default")
        limited = query.node_ids is not None or query.doc_ids is not None or query.filters is not None
        ids = self._ids(query.node_ids, query.doc_ids, query.filters) if limited else None
        found = self._store.search(query.query_embedding, query.similarity_top_k, ids)
        return VectorStoreQueryResult(nodes=[metadata_dict_to_node(p["node"]) for _, _, p in found],
                                      similarities=[s for _, s, _ in found], ids=[i for i, _, _ in found])

    def _ids(self, node_ids, doc_ids, filters) -> list[str]:
        nodes = None if node_ids is None else set(node_ids)
        documents = None if doc_ids is None else set(doc_ids)
        kept = self._store.where(lambda p: documents is None or p["document"] in documents)
        kept = [i for i in kept if nodes is None or i in nodes]
        if filters is None:
            return kept
        metadata = {i: p["metadata"] for i, p in self._store.get(kept).items()}
        test = build_metadata_filter_fn(metadata.__getitem__, filters)
        return [i for i in kept if test(i)]
