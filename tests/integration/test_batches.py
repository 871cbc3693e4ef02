"""The batches as the ranks get them, through accelerate's own sharding."""

import pytest
from accelerate.data_loader import BatchSamplerShard

from carl.sampler import LengthBatchSampler


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_row_reaches_exactly_one_rank(world_size: int) -> None:
    lengths = [row * 7 % 31 + 2 for row in range(163)]
    shards = []
    for rank in range(world_size):
        sampler = LengthBatchSampler(
            lengths, [1.0] * len(lengths), batch_size=8, seed=3, world_size=world_size
        )
        shard = BatchSamplerShard(sampler, num_processes=world_size, process_index=rank, even_batches=False)
        shards.append(list(shard))
        assert len(shards[-1]) == len(shard) == len(sampler) // world_size
    rows = [row for shard in shards for batch in shard for row in batch]
    assert sorted(rows) == list(range(len(lengths)))
