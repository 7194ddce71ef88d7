"""What the exercises' checks share: one sentence for what is missing or wrong."""

import math

import numpy as np
import pytest
import torch

from helpers import checking
from helpers.records import files, folders


def test_expect_raises_only_when_the_condition_fails():
    checking.expect(True, "never said")
    with pytest.raises(checking.NotYet, match="try again"):
        checking.expect(False, "try again")


def test_a_notebook_shows_the_sentence_without_a_traceback():
    assert checking.NotYet("give x a value.")._render_traceback_() == ["Not yet: give x a value."]


@pytest.mark.parametrize("answer", [..., [1, ...], (..., 2), {"a": 1, "b": ...}])
def test_what_is_still_dots_is_named(answer):
    with pytest.raises(checking.NotYet, match="give second a value"):
        checking.given(first=0, second=answer)


def test_answers_of_every_kind_count_as_given():
    checking.given(none=None, text="", table={}, tensor=torch.zeros(2), array=np.zeros(2))


@pytest.mark.parametrize(
    "answer", [3, 3.0, np.float32(3), np.int64(3), torch.tensor(3), torch.tensor([3.0])]
)
def test_one_number_in_any_form(answer):
    found = checking.number("x", answer)
    assert found == 3.0 and type(found) is float


@pytest.mark.parametrize(
    "answer, said",
    [
        (True, "x should be a number, not True"),
        ("3", "x should be a number, not '3'"),
        (math.nan, "x should be a number, not nan"),
        (math.inf, "x should be a number, not inf"),
        (None, "x should be one number, not a NoneType"),
        ([3], "x should be one number, not a list"),
        (torch.zeros(2), "x should be one number, not a Tensor"),
    ],
)
def test_what_is_not_one_number_is_said(answer, said):
    with pytest.raises(checking.NotYet, match=said):
        checking.number("x", answer)


def test_results_are_found_or_what_to_run_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_RUN_DIR", str(tmp_path))
    with pytest.raises(checking.NotYet, match="run 01_data first.*python -m course catch-up 01"):
        checking.results("01_data")
    (tmp_path / "01_data").mkdir()
    files.write_json(tmp_path / "01_data" / "manifest.json", {"parameters": {}, "results": ""})
    assert checking.results("01_data") == folders.run_directory() / "01_data"
