"""LZMA2 of the Python standard library: for text and other opaque bytes."""

from __future__ import annotations

import lzma

import numpy as np

from ..errors import CorruptError
from ..stage import EntropyModel
from ..symbols import id_dtype

_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 20}]  # the dictionary bounds the decoder's memory


class Lzma(EntropyModel, name="lzma"):
    """Symbols as little-endian integers of the smallest width, compressed with LZMA2 (raw stream, dictionary of 1 MiB).

    >>> ids = np.zeros((100, 100), np.uint8)
    >>> data = Lzma().encode(ids, 256)
    >>> bool((Lzma().decode(data, (100, 100), 256) == ids).all()), data.size < 100
    (True, True)
    """

    def encode(self, ids, k):
        raw = np.ascontiguousarray(ids, id_dtype(k).newbyteorder("<")).tobytes()
        return np.frombuffer(lzma.compress(raw, lzma.FORMAT_RAW, filters=_FILTERS), np.uint8)

    def decode(self, data, shape, k):
        width = id_dtype(k).newbyteorder("<")
        need = shape[0] * shape[1] * width.itemsize
        machine = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_FILTERS)
        try:
            raw = machine.decompress(np.ascontiguousarray(data).data, need)
            if len(raw) == need and not machine.eof:  # the end mark may still wait
                raw += machine.decompress(b"", 1)
        except (lzma.LZMAError, EOFError) as e:
            raise CorruptError(f"lzma: {e}") from None
        if len(raw) != need or not machine.eof or machine.unused_data:
            raise CorruptError(f"lzma: the stream does not hold exactly {need:,} bytes")
        return np.frombuffer(raw, width).reshape(shape).astype(id_dtype(k), copy=False)
