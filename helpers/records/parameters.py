"""The parameters of the five notebooks: which there are, of which type, and what is allowed.

Defaults live in each notebook's cell tagged `parameters`; this module only says what may replace them.
"""

import json
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StrictBool, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError


def _writable(text):
    if re.search(
        "[\0\ud800-\udfff]", text
    ):  # no file name may hold the one, no UTF-8 file the others
        raise PydanticCustomError(
            "unwritable", "Input should not hold the character NUL or half of a surrogate pair"
        )
    return text


Text = Annotated[str, Field(strict=True), AfterValidator(_writable)]
Name = Annotated[str, Field(strict=True, min_length=1), AfterValidator(_writable)]
Fraction = Annotated[float, Field(gt=0, lt=0.9, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Asked = Annotated[int, Field(ge=1, le=4096)]
Flag = StrictBool

SHARED = {"run_dir": Text, "seed": Annotated[int, Field(ge=0, lt=2**32)]}

RULES = {
    "01_data": {
        **SHARED,
        "data_path": Name,
        "data_shape": Literal[
            "auto", "question_answer", "prompt_completion", "alpaca", "messages", "conversations"
        ],
        "question_column": Name,
        "answer_column": Name,
        "task": Literal["auto", "classification", "free_form"],
        "system_prompt": Text,
        "model_id": Name,
        "max_length": Annotated[int, Field(ge=16, le=131_072)],
        "too_long": Literal["leave_out", "refuse"],
        "validation_fraction": Fraction,
        "test_fraction": Fraction,
        "near_duplicate": Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)],
        "max_rows": Annotated[int, Field(ge=0)],
    },
    "02_quantize_and_lora": {
        **SHARED,
        "quantization": Literal["nf4", "int8", "none"],
        "lora_r": Annotated[int, Field(ge=1, le=512)],
        "lora_alpha": Annotated[int, Field(ge=1, le=4096)],
        "lora_dropout": Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)],
        "lora_targets": Name,
    },
    "03_train": {
        **SHARED,
        "epochs": Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)],
        "batch_size": Count,
        "gradient_accumulation_steps": Count,
        "learning_rate": Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)],
        "lr_scheduler": Literal["cosine", "linear", "constant", "constant_with_warmup"],
        "warmup_ratio": Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)],
        "optim": Literal[
            "auto", "adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit"
        ],
        "precision": Literal["auto", "float32", "bfloat16", "float16"],
        "attention": Literal["auto", "sdpa", "eager", "flash_attention_2"],
        "base_storage": Literal["auto", "quantized", "dequantized"],
        "eval_fraction": Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)],
        "save_fraction": Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)],
        "resume": Flag,
    },
    "04_merge_push": {
        **SHARED,
        "push_to": Literal["practice", "hub", "none"],
        "hub_repo_id": Text,
        "hub_private": Flag,
        "push_adapter": Flag,
        "max_shard_size": Annotated[str, Field(strict=True, pattern=r"^[1-9]\d*(KB|MB|GB)$")],
        "check_rows": Count,
        "eval_batch_size": Asked,
        "merge_tolerance": Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)],
    },
    "05_evaluate": {
        **SHARED,
        "load_from": Literal["hub", "local"],
        "max_new_tokens": Annotated[int, Field(ge=0, le=8192)],
        "few_shot": Annotated[int, Field(ge=0, le=64)],
        "eval_batch_size": Asked,
        "bootstrap_samples": Annotated[int, Field(ge=100, le=1_000_000)],
    },
}

NOTEBOOKS = tuple(RULES)
TEXTS = {name for rules in RULES.values() for name, rule in rules.items() if rule in (Text, Name)}


class ParameterError(ValueError):
    """A parameter has a value that the course cannot use; the message is one sentence that names it."""


def check(notebook, values):
    """Return the parameters of `notebook` (a name in `NOTEBOOKS`) found in `values`, validated.

    `values` maps names to values and may hold more, e.g. a notebook's `globals()`. Numbers written
    as text become numbers, because YAML reads `2e-4` as a string.
    Raises ParameterError, with one sentence that names the parameter, what it was and what is allowed.
    """
    checked = {
        name: _check_one(name, values.get(name), rule) for name, rule in RULES[notebook].items()
    }
    if notebook == "01_data" and checked["validation_fraction"] + checked["test_fraction"] >= 0.95:
        raise ParameterError(
            f"validation_fraction + test_fraction was {checked['validation_fraction']} + "
            f"{checked['test_fraction']}, but together they must stay below 0.95 so that rows are left to train on."
        )
    if notebook == "04_merge_push":
        _check_repository(checked["hub_repo_id"], needed=checked["push_to"] == "hub")
    return checked


def check_together(checked):
    """Raise ParameterError when parameters of different notebooks contradict one another; checked: {notebook: parameters}."""
    push, load_from = checked["04_merge_push"], checked["05_evaluate"]["load_from"]
    if load_from == "hub" and push["push_to"] == "none":
        raise ParameterError(
            "load_from was 'hub', but push_to was 'none': nothing would be there to load; use load_from 'local'."
        )
    if push["push_adapter"] and push["push_to"] == "none":
        raise ParameterError(
            "push_adapter was true, but push_to was 'none': nothing is pushed; choose 'practice' or 'hub'."
        )


def _check_repository(name, needed):
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if name.count("/") != 1 and (name or needed):
        raise ParameterError(
            f"hub_repo_id was {name!r}, but with push_to 'hub' it should be 'account/name'."
        )
    try:
        validate_repo_id(name or "account/name")
    except HFValidationError as error:
        raise ParameterError(
            f"hub_repo_id was {name!r}, but it is no valid name: {error}"
        ) from None


def _check_one(name, value, rule):
    if isinstance(value, bool) and rule is not Flag:
        raise ParameterError(f"Parameter {name} was {value!r}, but it should not be true or false.")
    try:
        return TypeAdapter(rule).validate_python(value)
    except ValidationError as error:
        said = error.errors()[0]["msg"]
        wanted = said[6:] if said.startswith("Input should") else f"should be valid: {said}"
        raise ParameterError(f"Parameter {name} was {_shown(value)}, but it {wanted}.") from None


def _shown(value):
    try:
        return json.dumps(value, default=str)[:80]
    except (ValueError, TypeError, RecursionError):  # YAML can hold a list that holds itself
        return f"a {type(value).__name__}"
