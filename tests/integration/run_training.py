"""Trains in a process of its own and, if asked, kills it without warning: at a step, or while it writes a checkpoint.

usage: run_training.py CONFIG_JSON [--resume] [--kill-at-step N | --kill-in-checkpoint N]
"""

import argparse
import json
import os
import signal
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from carl import checkpoint, training
from carl.config import CarlConfig
from carl.losses.carl import CarlObjective


class KillAtStep(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def check_ranks(move_target: Any) -> Any:
    """Asserts after every optimizer step that all ranks hold the same encoder, target, queue and heads, bit for bit."""

    def checked(objective: CarlObjective) -> None:
        move_target(objective)
        for name, value in objective.state_dict().items():
            first = value.clone()
            dist.broadcast(first, src=0)
            assert torch.equal(first.nan_to_num(), value.nan_to_num()), (
                f"rank {dist.get_rank()} differs in {name}"
            )

    return checked


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("config")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--kill-at-step", type=int)
    parser.add_argument("--kill-in-checkpoint", type=int)
    options = parser.parse_args()
    callbacks = [KillAtStep(options.kill_at_step)] if options.kill_at_step else []
    if options.kill_in_checkpoint:
        publish, left = checkpoint.publish, [options.kill_in_checkpoint]

        def publish_or_die(*args: Any) -> None:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            publish(*args)

        checkpoint.publish = publish_or_die
    if dist.is_torchelastic_launched():
        CarlObjective.move_target = check_ranks(CarlObjective.move_target)
    config = CarlConfig(**json.loads(options.config))
    training.train(config, resume=options.resume, callbacks=callbacks)


if __name__ == "__main__":
    main()
