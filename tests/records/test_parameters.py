"""Whatever is given for a parameter is accepted as allowed, or refused in one sentence that names the parameter."""

import argparse
import ast
import math

import papermill
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from course import run
from helpers.records import folders, parameters

DEFAULTS = {
    notebook: {
        name: ast.literal_eval(about["default"])
        for name, about in papermill.inspect_notebook(
            str(folders.REPOSITORY / "notebooks" / f"{notebook}.ipynb")
        ).items()
    }
    for notebook in parameters.NOTEBOOKS
}
NAMES = [(notebook, name) for notebook, rules in parameters.RULES.items() for name in rules]
CHOICES = [
    "auto",
    "nf4",
    "none",
    "hub",
    "local",
    "practice",
    "5GB",
    "0GB",
    "a/b",
    "1e-3",
    "0.5",
    "nan",
    "-1",
    "",
]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-2, 5),
    st.floats(),
    st.floats(0, 1),
    st.text(max_size=20),
    st.sampled_from(CHOICES),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=1),
    st.dates(),
    st.binary(max_size=4),
)


def test_the_schema_is_what_the_notebooks_declare():
    assert {n: set(d) for n, d in DEFAULTS.items()} == {
        n: set(r) for n, r in parameters.RULES.items()
    }


@settings(max_examples=1500, deadline=None, derandomize=True)
@given(st.sampled_from(NAMES), VALUES)
@example(("03_train", "batch_size"), 10**400)
@example(("01_data", "system_prompt"), "\ud800")
@example(("01_data", "data_path"), "a\0b")
def test_every_value_is_accepted_or_refused_by_name(where, value):
    notebook, name = where
    try:
        checked = parameters.check(notebook, {**DEFAULTS[notebook], name: value})
    except parameters.ParameterError as error:
        said = str(error)
        assert name in said and said.endswith(".") and "\n" not in said and len(said) < 400, said
        return
    kept = checked[name]
    assert b"\0" not in str(kept).encode()
    assert type(kept) in (type(DEFAULTS[notebook][name]), int if isinstance(kept, int) else float)
    assert not isinstance(kept, float) or math.isfinite(kept)
    assert (
        parameters.check(notebook, checked) == checked
    )  # what was accepted once is accepted as it is


TYPED = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            "",
            "Answer: yes or no",
            "2024-13-45",
            "9" * 5000,
            "[" * 1500,
            "0x",
            "1:99999",
            "=",
            "<<: 1",
            "*a",
            "!!python/none x",
            "yes",
            "no",
            "~",
            "none",
            ".nan",
            ".inf",
            "-.inf",
            "1e400",
            "0",
            "-1",
            "1_000",
            "0.5",
            "0.9999999",
            "float16",
            "hub",
            "local",
            "nf4",
            "q_proj",
            ",",
            "a/b",
            "1KB",
            "\ud800",
            "a\tb",
            "{a: [}",
            "- x",
            "&a [*a]",
        ]
    ),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.dictionaries(
        st.sampled_from(sorted({name for _, name in NAMES} - {"run_dir"})),
        TYPED,
        min_size=1,
        max_size=3,
    )
)
@example({"system_prompt": "Answer: yes or no"})
@example({"push_to": "hub", "load_from": "local", "hub_repo_id": ""})
def test_whatever_is_typed_is_accepted_or_refused_by_name(typed):
    try:
        changed = run.overrides(argparse.Namespace(params=None, p=typed.items()))
        own = {n: {k: v for k, v in changed.items() if k in d} for n, d in DEFAULTS.items()}
        parameters.check_together(
            {n: parameters.check(n, d | own[n]) if own[n] else d for n, d in DEFAULTS.items()}
        )
    except parameters.ParameterError as error:
        said = str(error)
        assert (
            any(name in said for name in typed)
            and said.endswith(".")
            and "\n" not in said
            and len(said) < 400
        ), said


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"push_to": "none"}, "load_from"),
        ({"push_to": "hub"}, "hub_repo_id"),
        (
            {"validation_fraction": 0.5, "test_fraction": 0.5},
            "validation_fraction \\+ test_fraction",
        ),
        ({"push_adapter": True, "push_to": "none", "load_from": "local"}, "push_adapter"),
    ],
)
def test_contradictions_are_refused(changes, said):
    with pytest.raises(parameters.ParameterError, match=said):
        parameters.check_together(
            {
                n: parameters.check(n, d | {k: v for k, v in changes.items() if k in d})
                for n, d in DEFAULTS.items()
            }
        )
