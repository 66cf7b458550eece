"""Several processes that train together learn the same codebook, whatever the sizes of their batches."""

import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as processes  # noqa: E402

from compand.torch import Quantize  # noqa: E402


def work(rank, world, store, spec, out):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    torch.set_num_threads(1)
    q = Quantize(spec, 8, revive=0.5)
    for step in range(4):
        x = torch.randn(96 + 32 * rank, 8, generator=torch.Generator().manual_seed(10 * step + rank)) * (0.1 if step == 0 else 1)
        q(x)
    torch.save(q.state_dict(), f"{out}.{rank}")
    dist.destroy_process_group()


@pytest.mark.parametrize("spec", ["vq:64", "vq:16+vq:16", "center,scale:std:column,fsq:4x4"])
def test_all_processes_hold_the_same_codebook(spec, tmp_path):
    processes.spawn(work, (2, tmp_path / "store", spec, tmp_path / "state"), nprocs=2)
    a, b = (torch.load(f"{tmp_path / 'state'}.{rank}") for rank in range(2))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
