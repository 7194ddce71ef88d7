"""The progress line that the runner shows in its terminal."""

import types

import pytest

from helpers.train.progress import TerminalProgress


@pytest.fixture
def state():
    return types.SimpleNamespace(max_steps=4, global_step=0, is_world_process_zero=True)


def train(progress, state):
    progress.on_train_begin(None, state, None)
    state.global_step = 4
    progress.on_step_end(None, state, None)
    progress.on_log(None, state, None, logs={"loss": "0.25"})
    progress.on_train_end(None, state, None)


def test_losses_behind_the_bar_and_no_error_outside_of_training(state, capsys, monkeypatch):
    monkeypatch.setenv("COURSE_TERMINAL", "1")
    progress = TerminalProgress()
    progress.on_log(None, state, None, logs={"eval_loss": 7.5})  # evaluate() before train()
    assert capsys.readouterr().err == ""
    train(progress, state)
    last = capsys.readouterr().err.split("\r")[-1]
    assert "4/4" in last and "loss=0.250" in last and "eval_loss" not in last


def test_nothing_where_no_terminal_asks_for_it(state, capsys, monkeypatch):
    monkeypatch.delenv("COURSE_TERMINAL", raising=False)
    train(TerminalProgress(), state)
    assert capsys.readouterr().err == ""
