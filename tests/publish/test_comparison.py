"""Merges beside the adapter: what is measured, which merge holds, and which is not pushed."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from helpers.data import chats
from helpers.model import loading
from helpers.publish import comparison
from helpers.records import files

WORDS = ("river", "mountain", "copper", "window", "sugar", "engine")


@pytest.fixture(scope="module")
def merged(tiny, tmp_path_factory):
    """(the adapter's record, folder of a right merge, folder of the base without the update)."""
    folder = tmp_path_factory.mktemp("merge")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_special_tokens({"pad_token": loading.PAD_TOKEN})
    base = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    loading.add_pad_row(base, tokenizer)
    base.save_pretrained(folder / "base")
    set_seed(1)
    config = LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "down_proj"])
    model = get_peft_model(base, config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.3)
    model.save_pretrained(folder / "adapter")
    rows = Dataset.from_list(
        [
            {
                "prompt": chats.messages("Answer yes or no.", f"Is this a {word}?"),
                "completion": [{"role": "assistant", "content": "yes"}],
                "answer": "yes",
            }
            for word in WORDS
        ]
    )
    record = comparison.Adapter(model, tokenizer, rows, 4, 1, folder)
    assert not (folder / ".reference").exists()
    whole = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(folder / "base"), folder / "adapter"
    )
    whole.merge_and_unload().save_pretrained(folder / "right")
    return record, folder / "right", folder / "base"


def test_a_right_merge_answers_as_the_adapter_and_the_base_alone_does_not(merged):
    record, right, base = merged
    near = record.compare(right, torch.float32, None)
    assert near["identical_answers"] == 1 and near["kl_mean"] < 1e-6
    assert near["accuracy_change"] == 0 and near["accuracy_verdict"] == "not shown"
    far = record.compare(base, torch.float32, None)
    assert far["identical_answers"] < 1 and far["kl_mean"] > 1e-3


def test_a_merge_is_loaded_in_every_way(merged):
    record, right, _ = merged
    for way, config in comparison.ways(torch.float32).items():
        found = record.compare(right, torch.float32, config)
        assert (found["kl_mean"] < 1e-6) == (way == "as saved")


def measured(kl, accuracy=0.9, verdict="not shown"):
    """Figures as from Adapter.compare."""
    return {
        "kl_mean": kl,
        "accuracy": accuracy,
        "accuracy_ci95": (0.8, 1.0),
        "accuracy_verdict": verdict,
        "identical_answers": 0.95,
    }


EXACT_ONLY_AS_SAVED = {
    "as saved": measured(0.0004),
    "nf4": measured(4.8, 0.0, "worse"),
    "int8": measured(0.0007),
}
GOOD_EVERYWHERE = {"as saved": measured(0.008), "nf4": measured(0.004), "int8": measured(0.008)}
MEASURED = {"full precision": GOOD_EVERYWHERE, "dequantized": EXACT_ONLY_AS_SAVED}


class Record:
    answers, accuracy, ci95 = ["yes"] * 10, 0.9, (0.8, 1.0)


def certificate(merged_into, serve_as, tolerance=0.05, error=0.0):
    errors = dict.fromkeys(MEASURED, (error, "a.weight"))
    return comparison.certificate(Record, MEASURED, errors, serve_as, merged_into, tolerance)


@pytest.mark.parametrize(
    "figures, holds",
    [
        (measured(0.01), True),
        (measured(0.051), False),
        (measured(0.01, 0.5, "worse"), False),
        (measured(0.01, 1.0, "better"), True),
    ],
)
def test_a_merge_holds_by_its_answers_and_its_divergence(figures, holds):
    assert comparison.holds(figures, 0.05) is holds


@pytest.mark.parametrize(
    "merged_into, serve_as, within",
    [
        ("full precision", "anything", True),
        ("dequantized", "anything", False),
        ("dequantized", "as_saved", True),
        ("dequantized", "nf4", False),
        ("dequantized", "gguf", False),
    ],
)
def test_only_the_ways_that_are_served_count(merged_into, serve_as, within):
    check = certificate(merged_into, serve_as)
    assert check["within_tolerance"] is within
    assert check["candidates"][merged_into]["update_error"] == 0
    assert set(check["quantized_on_loading"]["dequantized"]) == {"nf4", "int8"}
    assert check["holds"]["as saved"]


def test_what_does_not_hold_is_refused_with_the_reason():
    comparison.gate(certificate("full precision", "anything"), "hub")
    comparison.gate(certificate("dequantized", "anything"), "none")
    with pytest.raises(ValueError) as caught:
        comparison.gate(certificate("dequantized", "anything"), "hub")
    said = str(caught.value)
    assert said.startswith("This merge is not pushed: mean KL divergence 4.8000 when loaded nf4")
    assert "serve_as is 'anything'" in said and "0.0% (the adapter: 90.0%)" in said
    with pytest.raises(ValueError, match=r"update error 0\.500 at a\.weight"):
        comparison.gate(certificate("full precision", "anything", error=0.5), "practice")


def test_the_table_has_a_row_for_each_way():
    table = comparison.table(MEASURED)
    assert len(table) == 6
    assert table.loc[("dequantized", "nf4")].tolist() == ["0%", "95%", "4.8000"]


def test_the_type_is_the_one_that_03_computed_in(tmp_path):
    (tmp_path / "03_train").mkdir()
    files.write_json(tmp_path / "03_train" / "metrics.json", {"precision": "bfloat16"})
    assert comparison.dtype_of(tmp_path) is torch.bfloat16
