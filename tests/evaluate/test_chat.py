"""The chat of 05: an input box where a person sits, and a question of ours where nobody does."""

from types import SimpleNamespace

import pytest

from helpers.evaluate import chat


@pytest.mark.parametrize(
    "shell, expected",
    [
        (None, False),
        (SimpleNamespace(), True),
        (SimpleNamespace(kernel=SimpleNamespace(_allow_stdin=True)), True),
        (SimpleNamespace(kernel=SimpleNamespace(_allow_stdin=False)), False),
    ],
    ids=["a script", "IPython in a terminal", "JupyterLab", "papermill"],
)
def test_who_can_type(monkeypatch, shell, expected):
    monkeypatch.setattr(chat, "get_ipython", lambda: shell)
    assert chat.someone_can_type() is expected


def test_a_person_asks_until_an_empty_line(monkeypatch):
    typed = iter(["one?", "  two? ", " ", "never read"])
    monkeypatch.setattr(chat, "someone_can_type", lambda: True)
    monkeypatch.setattr("builtins.input", lambda invitation: next(typed))
    assert list(chat.questions("ours?")) == ["one?", "two?"]
    assert next(typed) == "never read"


def test_a_batch_run_asks_one_question_and_no_person(monkeypatch):
    monkeypatch.setattr(chat, "someone_can_type", lambda: False)
    monkeypatch.setattr("builtins.input", None)
    assert list(chat.questions("ours?")) == ["ours?"]
