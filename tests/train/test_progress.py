"""The progress line of 03."""

import types

from helpers.train.progress import TextProgress


def test_losses_behind_the_bar_and_no_error_outside_of_training(capsys):
    progress, state = (
        TextProgress(),
        types.SimpleNamespace(max_steps=4, global_step=0, is_world_process_zero=True),
    )
    progress.on_log(
        None, state, None, logs={"eval_loss": 7.5}
    )  # trainer.evaluate() before trainer.train()
    assert capsys.readouterr().err == ""
    progress.on_train_begin(None, state, None)
    state.global_step = 4
    progress.on_step_end(None, state, None)
    progress.on_log(None, state, None, logs={"loss": 0.25})
    progress.on_train_end(None, state, None)
    last = capsys.readouterr().err.split("\r")[-1]
    assert "4/4" in last and "loss=0.250" in last and "eval_loss" not in last
