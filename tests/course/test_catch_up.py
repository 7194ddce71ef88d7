"""Catching up: what is kept, copied, run; and that the notebook can start afterwards."""

import shutil

import filelock
import pytest

from course import catch_up, run
from helpers.records import files, folders, manifests, steps, weights

FILES = {
    "01_data": "train.jsonl",
    "02_quantize_and_lora": "adapter_config.json",
    "03_train": "adapter.txt",
}


@pytest.fixture(scope="module")
def checked():
    """The notebooks' own parameters."""
    return run.settings({})


def make(run_dir, checked, notebooks=tuple(FILES), **other):
    """Stand-ins for finished notebooks in `run_dir`, with manifests as the notebooks write them; `other` parameters."""
    for notebook in notebooks:
        step = steps.Step(notebook, {**checked[notebook], **other, "run_dir": str(run_dir)})
        (step.folder / FILES[notebook]).write_text(f"{notebook} {step.parameters.get('lora_r')}\n")
        step.finish()
    return run_dir


@pytest.fixture(scope="module")
def finished(tmp_path_factory, checked):
    return make(tmp_path_factory.mktemp("finished"), checked)


def actions(run_dir, source, checked):
    return [action for _, action, _ in catch_up.plan("04_merge_push", run_dir, [source], checked)]


def test_the_message_of_a_notebook_names_the_command(tmp_path, checked):
    with pytest.raises(
        folders.ArtefactError, match='run 01_data first. Or "python -m course catch-up 04" fills in'
    ):
        steps.Step("04_merge_push", {**checked["04_merge_push"], "run_dir": str(tmp_path)})


def test_a_learner_who_starts_at_04(tmp_path, finished, checked, capsys):
    (tmp_path / "03_train" / "checkpoints").mkdir(parents=True)  # training that was given up
    assert catch_up.main(["04", "--run-dir", str(tmp_path), "--from-run", str(finished)]) == 0
    said = capsys.readouterr().out
    assert said.index("This takes a few seconds") < said.index(
        "copied 01_data, 02_quantize_and_lora, 03_train, in"
    )
    assert (tmp_path / "03_train.aside-1" / "checkpoints").is_dir()
    steps.Step("04_merge_push", {**checked["04_merge_push"], "run_dir": str(tmp_path)}).finish()
    assert catch_up.main(["04", "--run-dir", str(tmp_path), "--from-run", str(finished)]) == 0
    assert "kept 01_data, 02_quantize_and_lora, 03_train" in capsys.readouterr().out


def test_own_results_are_kept_and_nothing_is_put_behind_others(tmp_path, finished, checked, capsys):
    make(tmp_path / "same", checked, ["01_data"])
    assert actions(tmp_path / "same", finished, checked) == ["keep", "copy", "copy"]
    make(tmp_path / "other", checked, ["01_data", "02_quantize_and_lora"], lora_r=8)
    assert actions(tmp_path / "other", finished, checked) == ["keep", "keep", "run"]
    assert "03_train was made from other results than these" in capsys.readouterr().out
    make(tmp_path / "seed", checked, ["01_data"], seed=2)
    with pytest.raises(folders.ArtefactError, match="seed 2, not 1"):
        actions(tmp_path / "seed", finished, checked)


def test_what_cannot_be_copied_is_run_and_why(tmp_path, finished, checked, capsys, monkeypatch):
    empty = tmp_path / "empty"
    other = {**checked, "02_quantize_and_lora": {**checked["02_quantize_and_lora"], "lora_r": 8}}
    assert actions(empty, finished, other) == ["copy", "run", "run"]
    assert "02_quantize_and_lora was made with lora_r 16, not 8" in capsys.readouterr().out
    damaged = tmp_path / "damaged"
    shutil.copytree(finished, damaged)
    (damaged / "03_train" / FILES["03_train"]).write_text("other")
    assert actions(empty, damaged, checked) == ["copy", "copy", "run"]
    assert "03_train is damaged there" in capsys.readouterr().out
    monkeypatch.setattr(weights, "identity", lambda _: "sha256:other")
    assert actions(empty, finished, checked) == ["run", "run", "run"]
    assert "made with another SmolLM2-135M-Instruct than the one here" in capsys.readouterr().out


def test_other_code_does_not_hinder(tmp_path, finished, checked):
    tried = tmp_path / "tried"
    shutil.copytree(finished, tried)
    manifest = files.read_json(tried / "02_quantize_and_lora" / "manifest.json")
    manifest["inputs"]["notebook"] = "of a notebook in which somebody tried something"
    files.write_json(tried / "02_quantize_and_lora" / "manifest.json", manifest)
    assert actions(tmp_path / "empty", tried, checked) == ["copy", "copy", "copy"]


def test_a_folder_in_use_is_left_alone(tmp_path, finished, capsys):
    (tmp_path / "run" / "01_data").mkdir(parents=True)
    with filelock.FileLock(tmp_path / "run" / "01_data" / ".lock"):  # as a kernel at work holds it
        assert (
            catch_up.main(["02", "--run-dir", str(tmp_path / "run"), "--from-run", str(finished)])
            == 1
        )
    assert "01_data is in use by process" in capsys.readouterr().err


def test_without_a_finished_run_it_runs_what_is_missing(tmp_path, tiny, capfd):
    (tmp_path / "mine.csv").write_text(
        "text,label\n"
        + "".join(f"thing number {i},{'up' if i % 2 else 'down'}\n" for i in range(40))
    )
    small = ["-p", "model_id", str(tiny), "-p", "data_path", str(tmp_path / "mine.csv")]
    assert catch_up.main(["02", "--run-dir", str(tmp_path / "run"), *small]) == 0
    said = capfd.readouterr().out
    assert "01_data               run, about" in said and "ran 01_data" in said
    assert (tmp_path / "run" / "01_data" / "manifest.json").is_file()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["04", "--from-run", "nowhere"], "no such folder"),
        (["04", "-p", "lora_rr", "1"], "did you mean lora_r?"),
    ],
)
def test_wrong_usage(arguments, said, tmp_path, capsys):
    assert catch_up.main([*arguments, "--run-dir", str(tmp_path / "run")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_the_readme_has_seconds_for_every_notebook():
    assert all(catch_up.seconds(notebook, []) > 0 for notebook in manifests.NEEDS)
