"""Whatever is given for a parameter is accepted as allowed, or refused in one sentence."""

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from course import options
from helpers.records import parameters
from helpers.records.parameters import ParameterError

DEFAULTS = {notebook: options.defaults(notebook) for notebook in parameters.NOTEBOOKS}
NAMES = [(notebook, name) for notebook, rules in parameters.RULES.items() for name in rules]
ITSELF = []
ITSELF.append(ITSELF)
CHOICES = ["auto", "nf4", "none", "hub", "local", "practice", "5GB", "0GB", "a/b", "a/b--c"]
NUMBERS_IN_WORDS = ["1e-3", "0.5", "nan", "-1", "1_000", " 5 ", ""]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-2, 5),
    st.floats(),
    st.floats(0, 1),
    st.text(max_size=20),
    st.sampled_from(CHOICES + NUMBERS_IN_WORDS),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=1),
    st.dates(),
    st.binary(max_size=4),
)


def check(notebook, **changes):
    return parameters.check(notebook, {**DEFAULTS[notebook], **changes})


def check_all(changes):
    """Check the parameters of all notebooks, each with those of `changes` that are its own."""
    checked = {}
    for notebook, values in DEFAULTS.items():
        own = {name: value for name, value in changes.items() if name in values}
        checked[notebook] = check(notebook, **own)
    parameters.check_together(checked)
    return checked


def require_one_sentence(error, *names):
    """Assert that the error is a sentence with one of the names of parameters in it."""
    said = str(error)
    assert any(name in said for name in names), said
    assert said.endswith(".") and "\n" not in said and len(said) < 400, said


def test_the_models_have_what_the_notebooks_declare():
    for notebook, rules in parameters.RULES.items():
        assert list(rules) == list(DEFAULTS[notebook])
        assert check(notebook) == DEFAULTS[notebook]


def test_what_else_is_there_is_left_alone():
    assert check("02_quantize_and_lora", lora_rr=1, torch=math) == DEFAULTS["02_quantize_and_lora"]


@settings(max_examples=1500, deadline=None, derandomize=True)
@given(st.sampled_from(NAMES), VALUES)
@example(("03_train", "batch_size"), 10**400)
@example(("01_data", "system_prompt"), "\ud800")
@example(("01_data", "data_path"), "a\0b")
@example(("04_merge_push", "hub_repo_id"), "a/{b}")
@example(("05_evaluate", "few_shot"), ITSELF)
def test_every_value_is_accepted_or_refused_by_name(where, value):
    notebook, name = where
    try:
        checked = check(notebook, **{name: value})
    except ParameterError as error:
        require_one_sentence(error, name)
        return
    kept = checked[name]
    assert b"\0" not in str(kept).encode()
    assert type(kept) is type(DEFAULTS[notebook][name])
    assert not isinstance(kept, float) or math.isfinite(kept)
    assert parameters.check(notebook, checked) == checked  # what was accepted is accepted again


@pytest.mark.parametrize(
    "notebook, name, value, said",
    [
        ("02_quantize_and_lora", "lora_r", -4, "-4, but it should be greater than or equal to 1."),
        ("02_quantize_and_lora", "lora_r", True, "true, but it should not be true or false."),
        (
            "02_quantize_and_lora",
            "quantization",
            "nf5",
            "\"nf5\", but it should be 'nf4', 'int8' or 'none'.",
        ),
        (
            "02_quantize_and_lora",
            "lora_dropout",
            math.nan,
            "NaN, but it should be a finite number.",
        ),
        (
            "02_quantize_and_lora",
            "lora_targets",
            "",
            '"", but it should be valid: String should have at least 1 character.',
        ),
        ("03_train", "resume", "yes", '"yes", but it should be a valid boolean.'),
        ("03_train", "seed", None, "null, but it should be a valid integer."),
        ("05_evaluate", "few_shot", ITSELF, "a list, but it should be a valid integer."),
        (
            "01_data",
            "system_prompt",
            "a\0b",
            '"a\\u0000b", but it should not hold the character NUL or half of a surrogate pair.',
        ),
    ],
)
def test_the_sentence_says_what_it_was_and_what_is_allowed(notebook, name, value, said):
    with pytest.raises(ParameterError) as caught:
        check(notebook, **{name: value})
    assert str(caught.value) == f"Parameter {name} was {said}"


def test_numbers_written_as_text_become_numbers():
    assert check("03_train", learning_rate="2e-4", batch_size="16", epochs=2) == {
        **DEFAULTS["03_train"],
        "learning_rate": 2e-4,
        "batch_size": 16,
        "epochs": 2.0,
    }


@pytest.mark.parametrize(
    "name, said",
    [
        ("", "'account/name'"),
        ("inbox", "'account/name'"),
        ("a/b/c", "'account/name'"),
        ("a/b--c", "no valid name"),
        ("a/b c", "no valid name"),
    ],
)
def test_a_repository_that_the_hub_would_not_have_is_refused(name, said):
    with pytest.raises(ParameterError, match=said) as caught:
        check("04_merge_push", push_to="hub", hub_repo_id=name)
    require_one_sentence(caught.value, "hub_repo_id")
    assert check("04_merge_push", push_to="hub", hub_repo_id="ann/inbox")["push_to"] == "hub"
    assert check("04_merge_push", push_to="practice", hub_repo_id="")["hub_repo_id"] == ""


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"push_to": "none"}, "load_from"),
        ({"push_to": "hub"}, "hub_repo_id"),
        (
            {"validation_fraction": 0.5, "test_fraction": 0.5},
            r"validation_fraction \+ test_fraction was 0.5 \+ 0.5",
        ),
        ({"push_adapter": True, "push_to": "none", "load_from": "local"}, "push_adapter"),
    ],
)
def test_contradictions_are_refused(changes, said):
    with pytest.raises(ParameterError, match=said) as caught:
        check_all(changes)
    require_one_sentence(caught.value, *changes)


def test_what_does_not_contradict_is_accepted():
    changes = {"push_to": "none", "load_from": "local", "test_fraction": 0.5}
    assert check_all(changes)["04_merge_push"]["push_to"] == "none"


TYPED = st.one_of(
    st.text(max_size=12),
    st.sampled_from(CHOICES + NUMBERS_IN_WORDS),
    st.sampled_from(["Answer: yes or no", "q_proj", ",", "float16", "1KB", "a\tb", "\ud800"]),
    st.sampled_from(["2024-13-45", "9" * 5000, "[" * 1500, "0x", "1:99999", "=", "<<: 1", "*a"]),
    st.sampled_from(["!!python/none x", "yes", "no", "~", ".nan", ".inf", "-.inf", "1e400"]),
    st.sampled_from(["0", "0.9999999", "{a: [}", "- x", "&a [*a]"]),
)
TYPED_FOR = st.sampled_from(sorted({name for _, name in NAMES} - {"run_dir"}))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.dictionaries(TYPED_FOR, TYPED, min_size=1, max_size=3))
@example({"system_prompt": "Answer: yes or no"})
@example({"push_to": "hub", "load_from": "local", "hub_repo_id": ""})
def test_whatever_is_typed_is_accepted_or_refused_by_name(typed):
    changed = options.Options(values=tuple(typed.items())).given()
    try:
        check_all(changed)
    except ParameterError as error:
        require_one_sentence(error, *typed)


def test_free_text_is_not_read_as_yaml():
    assert "system_prompt" in parameters.TEXTS and "hub_repo_id" in parameters.TEXTS
    assert not parameters.TEXTS & {"seed", "learning_rate", "quantization", "resume"}
