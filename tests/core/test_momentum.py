"""The queue of keys and the moving target."""

from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from carl.momentum import KeyQueue, update_target


def numbered(start: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and labels that carry their number, so that it shows when they come apart."""
    numbers = torch.arange(start, start + count, dtype=torch.float32)
    return numbers[:, None].expand(-1, 3).clone(), torch.stack([-numbers, numbers / 7], dim=1)


@given(size=st.integers(0, 9), batches=st.lists(st.integers(0, 23), max_size=12))
@settings(deadline=None, max_examples=150)
def test_queue_is_first_in_first_out(size: int, batches: list[int]) -> None:
    queue, oracle, number = KeyQueue(size, 3), deque[int](maxlen=size), 0
    for count in batches:
        queue.enqueue(*numbered(number, count))
        oracle.extend(range(number, number + count))
        number += count
        keys, labels = queue.contents()
        assert len(keys) == len(labels) == len(oracle)
        assert sorted(keys[:, 0].tolist()) == list(oracle), "the newest remain, each once"
        assert (keys == keys[:, :1]).all()
        assert torch.equal(labels[:, 0], -keys[:, 0]), "labels stay with their keys"
        torch.testing.assert_close(labels[:, 1], keys[:, 0] / 7)


@given(size=st.integers(1, 9), before=st.integers(0, 30), after=st.lists(st.integers(0, 12), max_size=5))
@settings(deadline=None, max_examples=60)
def test_queue_continues_from_its_state(size: int, before: int, after: list[int]) -> None:
    straight, resumed = KeyQueue(size, 3), KeyQueue(size, 3)
    straight.enqueue(*numbered(0, before))
    resumed.load_state_dict(straight.state_dict())
    number = before
    for count in after:
        straight.enqueue(*numbered(number, count))
        resumed.enqueue(*numbered(number, count))
        number += count
    for name, value in straight.state_dict().items():
        assert torch.equal(value.nan_to_num(-1.0), resumed.state_dict()[name].nan_to_num(-1.0)), name


def test_queue_state_is_all_in_buffers() -> None:
    queue = KeyQueue(4, 3)
    assert set(queue.state_dict()) == {"keys", "labels", "pointer", "count"}
    assert not list(queue.parameters())


def test_queue_keeps_missing_ratings_and_no_gradient() -> None:
    queue = KeyQueue(4, 3)
    keys = torch.randn(2, 3, requires_grad=True)
    queue.enqueue(keys * 2, torch.tensor([[0.5, torch.nan], [torch.nan, torch.nan]]))
    stored, labels = queue.contents()
    assert not stored.requires_grad
    assert labels.isnan().tolist() == [[False, True], [True, True]]


def test_queue_copies_what_it_is_given() -> None:
    queue = KeyQueue(4, 3)
    keys, labels = numbered(0, 2)
    queue.enqueue(keys, labels)
    keys += 100
    labels += 100
    assert queue.contents()[0][:, 0].tolist() == [0, 1]
    assert queue.contents()[1][:, 0].tolist() == [0, -1]


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)).to(dtype)


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.9, 0.999])
def test_target_follows_the_formula(momentum: float) -> None:
    online, target = network(), network()
    expected = [p.detach().double().clone() for p in target.parameters()]
    for _ in range(6):
        with torch.no_grad():
            for p in online.parameters():
                p.add_(torch.randn_like(p))
        expected = [
            momentum * xi + (1 - momentum) * theta.detach().double()
            for xi, theta in zip(expected, online.parameters(), strict=True)
        ]
        update_target(target, online, momentum)
    for xi, value in zip(target.parameters(), expected, strict=True):
        torch.testing.assert_close(xi.detach().double(), value, rtol=0, atol=1e-6)


def test_momentum_0_copies() -> None:
    online, target = network(), network()
    update_target(target, online, 0.0)
    for xi, theta in zip(target.parameters(), online.parameters(), strict=True):
        assert torch.equal(xi, theta)


def test_target_in_fp32_follows_an_online_network_in_bf16() -> None:
    online, target = network(torch.bfloat16), network()
    start = target[0].weight.detach().clone()
    # Steps this small vanish in bf16: 0.001 of the way, a thousand times.
    for _ in range(1000):
        update_target(target, online, 0.999)
    kept = 0.999**1000
    expected = kept * start + (1 - kept) * online[0].weight.detach().float()
    assert target[0].weight.dtype == torch.float32
    torch.testing.assert_close(target[0].weight.detach(), expected, rtol=0, atol=1e-5)


def test_target_update_leaves_online_alone_makes_no_graph_and_copies_buffers() -> None:
    online, target = network(), network()
    online.train()(torch.randn(8, 4))  # moves the batch norm's running statistics
    before = [p.detach().clone() for p in online.parameters()]
    update_target(target, online, 0.5)
    assert all(torch.equal(a, b) for a, b in zip(before, online.parameters(), strict=True))
    assert all(p.grad is None and p.grad_fn is None for p in target.parameters())
    assert torch.equal(target[1].running_mean, online[1].running_mean)
    assert int(target[1].num_batches_tracked) == 1


@pytest.mark.parametrize("online", [nn.Linear(4, 5), nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))])
def test_target_of_another_shape_is_refused(online: nn.Module) -> None:
    target = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2))
    with pytest.raises(ValueError, match="differ"):
        update_target(target, online, 0.5)
