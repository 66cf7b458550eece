"""One pool of threads for torch and for products on codes."""

from __future__ import annotations

from pathlib import Path

import torch

from .. import _native


def share_threads(share: bool = True) -> bool:
    """Let kernels work on torch's own threads, or, with ``share=False``, on the pool of compand again. Returns whether torch's are used.

    torch's threads wait for milliseconds after each of its loops, spinning; a second pool would compete with them for the CPUs at every
    layer. Their number is torch's (``torch.set_num_threads``) unless ``COMPAND_THREADS`` says otherwise; where the two differ, and where
    torch is not built with GNU OpenMP, the own pool is used, as it is in children of fork(). Results are the same bits. ``import
    compand.hf`` calls this. A team of OpenMP waits for each of its threads, so on CPUs that other programs keep busy the own pool can be
    the quicker one.

    >>> share_threads(False)
    False
    """
    folder = Path(torch.__file__).parent
    found = [*folder.glob("lib/libgomp*.so*"), *folder.glob("../torch.libs/libgomp*.so*")] if share else []
    return any(_native.borrow_threads(str(path)) for path in sorted(found)) or _native.borrow_threads("")
