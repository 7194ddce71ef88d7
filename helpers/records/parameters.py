"""The parameters of the five notebooks: which there are, of which type, and what is allowed.

Defaults live in each notebook's cell tagged `parameters`; this module only says what may replace
them.
"""

import json
import re
from typing import Annotated, Literal

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    StrictBool,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError


class ParameterError(ValueError):
    """A parameter has a value that the course cannot use; the message is a sentence naming it."""


def _writable(text):
    """`text` itself, when file names and UTF-8 files can hold it."""
    if re.search("[\0\ud800-\udfff]", text):
        raise PydanticCustomError(
            "unwritable", "Input should not hold the character NUL or half of a surrogate pair"
        )
    return text


Text = Annotated[str, Field(strict=True), AfterValidator(_writable)]
Name = Annotated[str, Field(strict=True, min_length=1), AfterValidator(_writable)]
ShardSize = Annotated[str, Field(strict=True, pattern=r"^[1-9]\d*(KB|MB|GB)$")]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
AskedAtOnce = Annotated[int, Field(ge=1, le=4096)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
SomeShare = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
PartOfRows = Annotated[float, Field(gt=0, lt=0.9, allow_inf_nan=False)]


class Parameters(BaseModel):
    """What all five notebooks have."""

    run_dir: Text
    seed: Annotated[int, Field(ge=0, lt=2**32)]

    @field_validator("*", mode="before")
    @classmethod
    def _no_flag_for_a_number(cls, value, info):
        """pydantic takes true for 1; whoever typed it meant something else."""
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise PydanticCustomError("flag", "Input should not be true or false")
        return value


class Data(Parameters):
    """Of 01_data."""

    data_path: Name
    data_shape: Literal[
        "auto", "question_answer", "prompt_completion", "alpaca", "messages", "conversations"
    ]
    question_column: Name
    answer_column: Name
    task: Literal["auto", "classification", "free_form"]
    system_prompt: Text
    model_id: Name
    max_length: Annotated[int, Field(ge=16, le=131_072)]
    too_long: Literal["leave_out", "refuse"]
    validation_fraction: PartOfRows
    test_fraction: PartOfRows
    near_duplicate: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    max_rows: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _rows_are_left_to_train_on(self):
        if self.validation_fraction + self.test_fraction >= 0.95:
            raise ParameterError(
                f"validation_fraction + test_fraction was {self.validation_fraction} + "
                f"{self.test_fraction}, but together they must stay below 0.95 so that rows are "
                "left to train on."
            )
        return self


class Lora(Parameters):
    """Of 02_quantize_and_lora."""

    quantization: Literal["nf4", "int8", "none"]
    lora_r: Annotated[int, Field(ge=1, le=512)]
    lora_alpha: Annotated[int, Field(ge=1, le=4096)]
    lora_dropout: Share
    lora_targets: Name


class Training(Parameters):
    """Of 03_train."""

    epochs: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
    batch_size: Count
    gradient_accumulation_steps: Count
    learning_rate: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    lr_scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"]
    warmup_ratio: Share
    optim: Literal["auto", "adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit"]
    precision: Literal["auto", "float32", "bfloat16", "float16"]
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"]
    base_storage: Literal["auto", "quantized", "dequantized"]
    eval_fraction: SomeShare
    save_fraction: SomeShare
    resume: StrictBool


class Publishing(Parameters):
    """Of 04_merge_push."""

    serve_as: Literal["anything", "as_saved", "nf4", "gguf"]
    push_to: Literal["practice", "hub", "none"]
    hub_repo_id: Text
    hub_private: StrictBool
    push_adapter: StrictBool
    max_shard_size: ShardSize
    check_rows: Count
    eval_batch_size: AskedAtOnce
    merge_tolerance: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]

    @model_validator(mode="after")
    def _the_hub_takes_this_name(self):
        name = self.hub_repo_id
        if not name and self.push_to != "hub":
            return self  # named after the base model, when there is something to name
        if name.count("/") != 1:
            raise ParameterError(
                f"hub_repo_id was {name!r}, but with push_to 'hub' it should be 'account/name'."
            )
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise ParameterError(
                f"hub_repo_id was {name!r}, but it is no valid name: {error}"
            ) from None
        return self


class Evaluation(Parameters):
    """Of 05_evaluate."""

    load_from: Literal["hub", "local"]
    max_new_tokens: Annotated[int, Field(ge=0, le=8192)]
    few_shot: Annotated[int, Field(ge=0, le=64)]
    eval_batch_size: AskedAtOnce
    bootstrap_samples: Annotated[int, Field(ge=100, le=1_000_000)]


MODELS = {
    "01_data": Data,
    "02_quantize_and_lora": Lora,
    "03_train": Training,
    "04_merge_push": Publishing,
    "05_evaluate": Evaluation,
}
NOTEBOOKS = tuple(MODELS)
# {notebook: {name: pydantic's FieldInfo}}, and the names of those that are free text.
RULES = {notebook: model.model_fields for notebook, model in MODELS.items()}
TEXTS = {name for rules in RULES.values() for name, rule in rules.items() if rule.annotation is str}


def check(notebook, values):
    """Return the parameters of `notebook` (in `NOTEBOOKS`) found in `values`, validated, as a dict.

    `values` maps names to values and may hold more, e.g. a notebook's `globals()`. Numbers written
    as text become numbers, because YAML reads `2e-4` as a string.
    Raises ParameterError, with one sentence that names the parameter, what it was and what is
    allowed.
    """
    model = MODELS[notebook]
    try:
        return model(**{name: values.get(name) for name in model.model_fields}).model_dump()
    except ValidationError as error:
        raise _in_a_sentence(error.errors()[0]) from None


def check_together(checked):
    """Raise ParameterError when parameters of different notebooks contradict one another.

    checked: {notebook: parameters}, of all notebooks.
    """
    push, load_from = checked["04_merge_push"], checked["05_evaluate"]["load_from"]
    if load_from == "hub" and push["push_to"] == "none":
        raise ParameterError(
            "load_from was 'hub', but push_to was 'none': nothing would be there to load; "
            "use load_from 'local'."
        )
    if push["push_adapter"] and push["push_to"] == "none":
        raise ParameterError(
            "push_adapter was true, but push_to was 'none': nothing is pushed; "
            "choose 'practice' or 'hub'."
        )


def _in_a_sentence(problem):
    """The ParameterError for one entry (dict) of a ValidationError's `errors()`."""
    own = problem.get("ctx", {}).get("error")
    if isinstance(own, ParameterError):
        return own
    (name,), value, message = problem["loc"], problem["input"], problem["msg"]
    should = message.removeprefix("Input ")
    if should == message:
        should = f"should be valid: {message}"
    return ParameterError(f"Parameter {name} was {_shown(value)}, but it {should}.")


def _shown(value):
    """A value as JSON would write it, cut off where it is long."""
    try:
        return json.dumps(value, default=str)[:80]
    except (ValueError, TypeError, RecursionError):  # YAML can hold a list that holds itself
        return f"a {type(value).__name__}"
