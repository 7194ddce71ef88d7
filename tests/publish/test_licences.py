"""What the licence of a base model asks for."""

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled
from huggingface_hub.hf_api import ModelInfo

from helpers.publish import licences
from helpers.records import folders, weights


@pytest.mark.parametrize(
    "name, version, begins",
    [
        ("meta-llama/Meta-Llama-3-8B-Instruct", "3", "Llama-3"),
        ("x/llama3", "3", "Llama-3"),
        ("Llama-3.1-8B", "3.1", "Llama"),
        ("/models/Llama-3.3-70B", "3.3", "Llama"),
        ("llama-30b", None, ""),
        ("Llama-3.5", None, ""),
        ("Llama-2-7b", None, ""),
        ("SmolLM2", None, ""),
    ],
)
def test_the_version_is_in_the_name_and_asks_for_another(name, version, begins):
    assert licences.llama_version(name) == version
    assert licences.name_begins(name) == begins


def test_the_default_model_s_licence_is_known():
    assert licences.about(weights.DEFAULT_MODEL) == {
        "hub_id": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "name": "SmolLM2-135M-Instruct",
        "licence": "apache-2.0",
        "link": None,
        "built_with": "",
        "notice": "",
    }


def test_a_folder_s_licence_is_in_its_card(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "NOTEBOOKS", tmp_path / "notebooks")
    folder = tmp_path / "models" / "mine"
    folder.mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    for model_id in (str(folder), "../models/mine"):
        assert licences.about(model_id)["licence"] == "unknown"
        assert licences.about(model_id)["hub_id"] is None
    (folder / "README.md").write_text("# A model\n")
    assert licences.about(str(folder))["licence"] == "unknown"
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    assert licences.about("../models/mine")["licence"] == "mit"
    assert licences.about("../models/mine")["name"] == "mine"


@pytest.mark.parametrize("card, licence", [({"license": "mit"}, "mit"), ({}, "unknown")])
def test_a_model_of_the_hub_is_asked_for_its_card(monkeypatch, card, licence):
    found = ModelInfo(id="ann/m", cardData=card)
    monkeypatch.setattr(HfApi, "model_info", lambda self, hub_id: found)
    about = licences.about("ann/m")
    assert (about["hub_id"], about["name"], about["licence"]) == ("ann/m", "m", licence)


@pytest.mark.parametrize("error", [HTTPError("no network"), OfflineModeIsEnabled("offline")])
def test_a_hub_that_cannot_be_asked_leaves_the_licence_unknown(monkeypatch, error):
    def cannot_be_asked(self, hub_id):
        raise error

    monkeypatch.setattr(HfApi, "model_info", cannot_be_asked)
    assert licences.about("ann/m")["licence"] == "unknown"


@pytest.mark.parametrize(
    "name, licence, built_with, owner",
    [
        ("Meta-Llama-3-8B", "llama3", "Built with Meta Llama 3", "Meta Llama 3"),
        ("Llama-3.1-8B", "llama3.1", "Built with Llama", "Llama 3.1"),
    ],
)
def test_meta_s_licences_ask_for_two_lines(tmp_path, name, licence, built_with, owner):
    (tmp_path / name).mkdir()
    about = licences.about(str(tmp_path / name))
    assert about["licence"] == licence and about["built_with"] == built_with
    assert about["link"] == f"https://www.llama.com/{licence.replace('.', '_')}/license/"
    assert about["notice"].startswith(f"{owner} is licensed under the {owner} Community License, ")
