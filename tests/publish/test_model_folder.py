"""The folder that leaves the machine: whole or not there, and as large as was said."""

from types import SimpleNamespace

from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.publish import model_folder


def test_its_size_is_that_of_its_weights(tiny):
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype="auto")
    assert model_folder.size(tiny) == model.num_parameters() * model.dtype.itemsize


def test_the_disk_must_hold_two_merges_and_what_the_practice_hub_keeps(tiny):
    for push_to, copies in (("practice", 3), ("hub", 2), ("none", 2)):
        asked = []
        step = SimpleNamespace(parameters={"push_to": push_to}, check_space=asked.append)
        model_folder.check_space(step, tiny)
        assert asked == [copies * model_folder.size(tiny)]


def test_a_trial_is_empty_even_after_one_that_was_cut_off(tmp_path):
    (model_folder.trial(tmp_path, "dequantized") / "part").touch()
    assert list(model_folder.trial(tmp_path, "dequantized").iterdir()) == []


def test_the_folder_appears_whole_and_the_trials_go(tiny, tmp_path):
    merged, tokenizer = tmp_path / "merged", AutoTokenizer.from_pretrained(tiny)
    tokenizer.init_kwargs["local_files_only"] = True
    merged.mkdir()
    (merged / "old.safetensors").touch()
    trial = model_folder.trial(tmp_path, "full precision")
    (trial / "config.json").write_text("{}")
    model_folder.trial(tmp_path, "dequantized")
    model_folder.assemble(trial, merged, tokenizer, ModelCard("# A model\n"), "A notice.")
    names = {path.name for path in merged.iterdir()}
    assert {"config.json", "README.md", "Notice", "tokenizer.json"} <= names
    assert "old.safetensors" not in names
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]
    assert (merged / "Notice").read_text() == "A notice.\n"
    assert "local_files_only" not in (merged / "tokenizer_config.json").read_text()
    assert list(model_folder.sizes(merged).index) == sorted(names)
