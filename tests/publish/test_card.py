"""The model card: a stranger reads first how the model may be loaded."""

import pytest
from huggingface_hub import ModelCard

from helpers.publish import card, hub, licences
from helpers.records import weights
from tests.records import lessons

FIGURES = {"accuracy": 0.9, "accuracy_ci95": (0.8, 1.0), "identical_answers": 0.95}


@pytest.fixture
def run_dir(tmp_path):
    rows = {f"{part}.jsonl": "{}\n" for part in ("train", "validation", "test")}
    summary = {"summary.json": '{"rows": {"train": 5, "validation": 2, "test": 3}}'}
    lessons.finish("01_data", tmp_path, rows | summary, system_prompt="Yes or no?")
    for name in ("02_quantize_and_lora", "03_train"):
        lessons.finish(name, tmp_path)
    return tmp_path


def check(holds, serve_as="anything"):
    return {
        "validation_rows": 2,
        "serve_as": serve_as,
        "merged_into": "full precision",
        "holds": holds,
        "adapter_accuracy": 0.9,
        "adapter_accuracy_ci95": (0.8, 1.0),
        "candidates": {"full precision": FIGURES},
        "quantized_on_loading": {"full precision": {"nf4": FIGURES, "int8": FIGURES}},
    }


def make(run_dir, base=weights.DEFAULT_MODEL, **about):
    return card.make(run_dir, "ann/inbox", licences.about(base), check(**about))


def test_its_first_lines_say_how_the_model_may_be_loaded(run_dir):
    made = make(run_dir, holds={"as saved": True, "nf4": True, "int8": True})
    lines = [line for line in made.text.splitlines() if line][:3]
    assert lines[0] == "# inbox" and "merged into its full-precision weights" in lines[1]
    assert lines[2].startswith(
        "**Keeps its answers when loaded as saved, in NF4 (4 bits) and in int8 (8 bits).** "
        "Measured on 2 validation rows"
    )
    assert "Loses" not in made.text


def test_it_warns_of_the_ways_in_which_the_model_forgets(run_dir):
    made = make(run_dir, holds={"as saved": True, "nf4": False, "int8": True}, serve_as="as_saved")
    assert "**Keeps its answers when loaded as saved and in int8 (8 bits).**" in made.text
    assert "**Loses answers when loaded in NF4 (4 bits): do not use it so.**" in made.text
    none = make(run_dir, holds=dict.fromkeys(card.IN_WORDS, False), serve_as="gguf")
    assert "Keeps" not in none.text and "GGUF, which was not measured itself" in none.text


def test_it_holds_data_settings_results_and_versions(run_dir):
    made = make(run_dir, holds={"as saved": True, "nf4": True, "int8": True})
    assert "> Yes or no?" in made.text and "| train | 5 rows, SHA-256 " in made.text
    assert "| loaded in NF4 (4 bits) | 90.0% (80.0% – 100.0%) | 95.0% |" in made.text
    assert "| lora_r | 16 |" in made.text and "| torch | " in made.text
    assert "| run_dir |" not in made.text and str(run_dir) not in made.text
    read = ModelCard(str(made))
    assert read.data.license == "apache-2.0" and hub.MARK in read.data.tags


def test_llama_3_s_lines_stand_at_the_top(run_dir, tmp_path):
    (tmp_path / "Meta-Llama-3-8B").mkdir()
    base = str(tmp_path / "Meta-Llama-3-8B")
    made = make(run_dir, base, holds={"as saved": True, "nf4": True, "int8": True})
    assert [line for line in made.text.splitlines() if line][1] == "Built with Meta Llama 3"
    assert made.data.license == "llama3"
