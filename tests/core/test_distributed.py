"""The collectives, with two processes."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from carl.distributed import average_gradients, gather_rows, share_of_batch, world_size

WORKER = """
import sys
import torch
import torch.distributed as dist
from torch import nn
from carl.distributed import average_gradients, first_row, gather_rows, share_of_batch, world_size

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
assert world_size() == 2
device = torch.device("cpu")

# Uneven rows, one rank without any, labels with NaN, one dimension and three, integers.
for mine, theirs in ((3, 5), (4, 0), (2, 2)):
    rows = [torch.arange(mine * 2.0).reshape(mine, 2), 100 + torch.arange(theirs * 2.0).reshape(theirs, 2)]
    rows[0][0, 1] = torch.nan
    together = gather_rows(rows[rank].requires_grad_())
    start = first_row(rows[rank])
    assert start == [0, mine][rank]
    if len(rows[rank]):
        together.nan_to_num(0.0).sum().backward()
        assert (rows[rank].grad == (~rows[rank].isnan())).all()  # to this rank's rows, once
    assert torch.equal(together.nan_to_num(-1.0), torch.cat(rows).detach().nan_to_num(-1.0)), together
assert first_row(torch.zeros(rank + 1, 2)) == rank
assert gather_rows(torch.full((rank + 1, 2, 3), rank)).flatten(1)[:, 0].tolist() == [0, 1, 1]
strided = torch.arange(12.0).reshape(4, 3).T[: rank + 1]
assert gather_rows(strided).tolist() == [[0, 3, 6, 9], [0, 3, 6, 9], [1, 4, 7, 10]]

# The mean over ranks of the weighted means over rows is the mean over all rows.
values = [torch.tensor([1.0, 2.0, 6.0]), torch.tensor([11.0])][rank]
weighted = share_of_batch(len(values), device) * values.mean()
dist.all_reduce(weighted)
assert abs(weighted.item() / 2 - 5.0) < 1e-6

# Gradients: averaged, a missing one counts as 0, frozen parameters are left alone.
both, first_only, neither, frozen = (nn.Parameter(torch.zeros(2, 3)) for _ in range(4))
frozen.requires_grad_(False)
both.grad = torch.full((2, 3), 1.0 + rank) * torch.tensor([1.0, 2.0, 3.0])
if rank == 0:
    first_only.grad = torch.full((2, 3), 4.0)
average_gradients([both, frozen, first_only, neither])
assert both.grad.tolist() == [[1.5, 3.0, 4.5]] * 2
assert first_only.grad.tolist() == [[2.0] * 3] * 2
assert neither.grad is None
assert frozen.grad is None
print("ok", flush=True)
dist.destroy_process_group()
"""


def test_two_processes(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path / "rendezvous")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            out, err = process.communicate(timeout=90)
            assert process.returncode == 0, err
            assert out.strip() == "ok"
    finally:
        for process in processes:
            process.kill()


def test_one_process_has_nothing_to_exchange() -> None:
    rows, parameter = torch.randn(3, 2), torch.nn.Parameter(torch.zeros(2))
    assert world_size() == 1
    assert gather_rows(rows) is rows
    assert share_of_batch(3, rows.device) == 1.0
    parameter.grad = torch.tensor([1.0, 2.0])
    average_gradients([parameter])
    assert parameter.grad.tolist() == [1.0, 2.0]
