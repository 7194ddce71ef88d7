"""Progress of training as one plain line: it reads the same in JupyterLab and in a terminal."""

from tqdm import tqdm
from transformers import TrainerCallback


class TextProgress(TrainerCallback):
    """A text bar on standard error, one tick per optimizer step, with the newest losses behind it."""

    def __init__(self):
        self.bar, self.shown = (
            tqdm(disable=True),
            {},
        )  # until training begins: trainer.evaluate() logs, too

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="training",
            unit="step",
            disable=not state.is_world_process_zero,  # one bar, however many processes
        )
        self.shown = {}

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.shown.update(
            {key: f"{float(logs[key]):.3f}" for key in ("loss", "eval_loss") if key in (logs or {})}
        )
        self.bar.set_postfix(self.shown)

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()
