"""Parameters and run directories."""

import json

import pytest

from helpers.records import folders, manifests, parameters, steps

GOOD = {
    "run_dir": "",
    "seed": 1,
    "quantization": "nf4",
    "lora_r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.0,
    "lora_targets": "q_proj",
}


@pytest.mark.parametrize(
    "name, value",
    [
        ("lora_r", -4),
        ("lora_r", "many"),
        ("lora_r", True),
        ("quantization", "nf5"),
        ("lora_dropout", 1.0),
        ("lora_dropout", float("nan")),
        ("lora_targets", ""),
        ("seed", -1),
    ],
)
def test_a_wrong_value_is_refused_by_name(name, value):
    with pytest.raises(parameters.ParameterError, match=name):
        parameters.check("02_quantize_and_lora", {**GOOD, name: value})


def test_numbers_written_as_text_become_numbers():
    assert (
        parameters.check("02_quantize_and_lora", {**GOOD, "lora_dropout": "5e-2"})["lora_dropout"]
        == 0.05
    )


def test_manifest_finds_altered_files(tmp_path):
    values = {
        "run_dir": str(tmp_path),
        "seed": 1,
        "data_path": "../data/inbox.csv",
        "data_shape": "auto",
        "question_column": "question",
        "answer_column": "answer",
        "task": "auto",
        "system_prompt": "",
        "model_id": "m",
        "max_length": 64,
        "too_long": "leave_out",
        "validation_fraction": 0.1,
        "test_fraction": 0.3,
        "near_duplicate": 0.7,
        "max_rows": 0,
    }
    step = steps.Step("01_data", values)
    (step.folder / "train.jsonl").write_text("{}\n")
    step.finish()
    assert manifests.is_current("01_data", tmp_path, step.parameters)
    assert not manifests.is_current("01_data", tmp_path, {**step.parameters, "max_rows": 5})
    with pytest.raises(folders.ArtefactError, match="seed"):
        steps.Step("02_quantize_and_lora", {**GOOD, "run_dir": str(tmp_path), "seed": 2})
    (step.folder / "train.jsonl").write_text("changed")
    with pytest.raises(folders.ArtefactError, match="01_data/train.jsonl"):
        steps.Step("02_quantize_and_lora", {**GOOD, "run_dir": str(tmp_path)})
    assert "token" not in json.dumps(manifests.read_manifest(tmp_path, "01_data"))


def test_another_model_in_the_same_folder_is_found(tmp_path):
    model, data = tmp_path / "model", tmp_path / "mine.csv"
    model.mkdir()
    (model / "config.json").write_text("{}")
    data.write_text("question,answer\n")
    values = {
        "run_dir": str(tmp_path / "run"),
        "seed": 1,
        "data_path": str(data),
        "data_shape": "auto",
        "question_column": "question",
        "answer_column": "answer",
        "task": "auto",
        "system_prompt": "",
        "model_id": str(model),
        "max_length": 64,
        "too_long": "leave_out",
        "validation_fraction": 0.1,
        "test_fraction": 0.3,
        "near_duplicate": 0.7,
        "max_rows": 0,
    }
    step = steps.Step("01_data", values)
    step.finish()
    assert manifests.is_current("01_data", step.run_dir, step.parameters) and manifests.follows(
        "01_data", step.run_dir
    )
    steps.Step("02_quantize_and_lora", {**GOOD, "run_dir": str(step.run_dir)}).finish()
    (model / "config.json").write_text('{"other": 1}')
    assert not manifests.is_current("01_data", step.run_dir, step.parameters)
    with pytest.raises(folders.ArtefactError, match="has changed since 01_data"):
        steps.Step("02_quantize_and_lora", {**GOOD, "run_dir": str(step.run_dir)})
    steps.Step("01_data", {**values, "max_length": 65}).finish()
    assert manifests.follows("01_data", step.run_dir)
