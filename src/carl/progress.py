"""How long work is shown: one live line with the time left on a terminal, plain lines elsewhere."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class TrainingProgress(TrainerCallback):
    """Shows step, loss, dev r and time left on ``console``."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: Progress | None = None
        self.loss, self.dev = "", ""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draw the line."""
        self.first, self.started = state.global_step, time.monotonic()
        if self.console.is_terminal and state.is_world_process_zero:
            self.bar = Progress(
                TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                TextColumn("{task.description}"), console=self.console,
            )  # fmt: skip
            self.bar.start()
            self.task = self.bar.add_task("", total=state.max_steps, completed=state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move on by a step."""
        if self.bar is not None:
            self.bar.update(self.task, completed=state.global_step, description=f"{self.loss}  {self.dev}")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the newest numbers; off a terminal, write a line."""
        if logs is None or not state.is_world_process_zero:
            return
        if "loss" in logs:
            self.loss = f"loss {float(logs['loss']):.3f}"
        elif "eval_mean_r" in logs:
            parts = [f"{name[0].upper()} {logs[f'eval_{name}_r']:.3f}" for name in ("valence", "arousal")
                     if f"eval_{name}_r" in logs]  # fmt: skip
            self.dev = f"dev r {' '.join(parts)}"
        if self.bar is None and ("loss" in logs or "eval_mean_r" in logs):
            done = state.global_step - self.first
            left = (time.monotonic() - self.started) / max(done, 1) * (state.max_steps - state.global_step)
            self.console.print(
                f"step {state.global_step}/{state.max_steps}  {self.loss}  {self.dev}  "
                f"{int(left // 60)}:{int(left % 60):02d} left",
                soft_wrap=True,
                highlight=False,
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the line as it stands."""
        self.close()

    def close(self) -> None:
        """Release the terminal, whatever happened."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
