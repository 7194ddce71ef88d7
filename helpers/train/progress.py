"""Progress of training as one plain line, for whoever runs the course in a terminal.

In a notebook transformers shows a table, which does not reach the terminal from which the runner
has started the notebook; transformers' own bar for terminals writes a line for every logged step.
"""

import os

from tqdm import tqdm
from transformers import TrainerCallback


class TerminalProgress(TrainerCallback):
    """A text bar on standard error, one tick for each update, with the newest losses behind it.

    Shown only where the runner asks for it (COURSE_TERMINAL), and by one process.
    """

    def __init__(self):
        self.bar, self.shown = tqdm(disable=True), {}  # until training begins: evaluations log, too

    def on_train_begin(self, args, state, control, **kwargs):
        wanted = state.is_world_process_zero and "COURSE_TERMINAL" in os.environ
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="training",
            unit="step",
            disable=not wanted,
        )
        self.shown = {}

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs):
        for name in ("loss", "eval_loss"):
            if name in (logs or {}):
                self.shown[name] = f"{float(logs[name]):.3f}"
        self.bar.set_postfix(self.shown)

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()
