"""Several processes that train together learn the same codebook, whatever the sizes of their batches."""

import os
from datetime import timedelta

import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as processes  # noqa: E402

from compand.errors import InputError  # noqa: E402
from compand.torch import Quantize  # noqa: E402

CASES = {"vq": ("vq:64", {}), "residual": ("vq:16+vq:16", {}), "grid": ("center,scale:std:column,fsq:4x4", {}),
         "balanced": ("vq:16", {"balance": 1.0}), "dynamic": ("dynamic:16:dim=4", {}), "prefix": ("vq:8+vq:8+vq:8", {"prefix": True}),
         "gumbel": ("vq:16", {"estimator": "gumbel", "entropy": 0.1}), "gradient": ("pq:2x4", {"update": "gradient", "revive": 0.9}),
         "through": ("vq:16", {"through": "linear"})}


def work(rank, world, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=world, timeout=timedelta(seconds=60))
    torch.set_num_threads(1)
    for case, (spec, choices) in CASES.items():
        q = Quantize(spec, 8, **{"revive": 0.5, **choices})
        for step in range(10):
            n = 96 + 32 * rank if step != 5 else 3 + 400 * rank
            x = torch.randn(n, 8, generator=torch.Generator().manual_seed(10 * step + rank)) * (0.1 if step == 0 else 1)
            q(x)
        torch.save(q.state_dict(), folder / f"{case}.{rank}")
    told = []
    for x in (torch.full((4, 8), torch.nan if rank else 1.0), torch.zeros(4 * rank, 8)):
        try:
            q(x)
        except InputError as e:
            told.append(str(e)[:3])
    torch.save(told, folder / f"told.{rank}")
    dist.barrier()  # nobody leaves while another still talks to it
    dist.destroy_process_group()
    os._exit(0)  # all is written; threads of gloo that still end while the interpreter does have aborted a process


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    processes.spawn(work, (2, folder), nprocs=2)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_all_processes_hold_the_same_codebook(case, trained):
    a, b = (torch.load(trained / f"{case}.{rank}") for rank in range(2))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_fault_in_one_process_is_told_in_all(trained):
    """Otherwise the others would wait for it forever."""
    assert [torch.load(trained / f"told.{rank}") for rank in range(2)] == [["NaN", "no "]] * 2
