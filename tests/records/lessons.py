"""Finished notebooks for the tests, without running one: their records and a few small files."""

from course import options
from helpers.records import steps

RESULTS = {
    "01_data": {"train.jsonl": "{}\n", "summary.json": '{"rows": 1}'},
    "02_quantize_and_lora": {"adapter_config.json": '{"r": 16}'},
    "03_train": {
        "adapter/adapter_model.safetensors": "weights",
        "metrics.json": '{"seconds": 1.5, "log_history": [{"loss": 0.5, "eval_runtime": 2.0}]}',
        "loss.png": "a picture",
        "checkpoints/state.json": "{}",
    },
    "04_merge_push": {"merge_check.json": '{"kl_mean": 0.001}'},
    "05_evaluate": {"metrics.json": '{"accuracy": 0.9}'},
}


def values(notebook, run_dir, **changes):
    """The parameters of `notebook` as its cell has them, with `changes`."""
    return {**options.defaults(notebook), "run_dir": str(run_dir), **changes}


def finish(notebook, run_dir, results=None, **changes):
    """Do `notebook` in `run_dir`: write `results` ({name: text}) and the manifest; the Step."""
    step = steps.Step(notebook, values(notebook, run_dir, **changes))
    for name, text in (RESULTS[notebook] if results is None else results).items():
        (step.folder / name).parent.mkdir(exist_ok=True)
        (step.folder / name).write_text(text, encoding="utf-8")
    step.finish(leave_out=["checkpoints"])
    return step
