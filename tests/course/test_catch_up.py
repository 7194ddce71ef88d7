"""Catching up: what is kept, copied, run; and that the notebook can start afterwards."""

import shutil
from pathlib import Path

import filelock
import nbformat
import pytest
from nbclient import NotebookClient
from support import course

from course import catch_up
from course.options import checked_parameters
from helpers.records import files, folders, manifests, steps, weights

FILES = {
    "01_data": "train.jsonl",
    "02_quantize_and_lora": "adapter_config.json",
    "03_train": "adapter.txt",
}


@pytest.fixture(scope="module")
def checked():
    """The notebooks' own parameters."""
    return checked_parameters({})


def make(run_dir, checked, notebooks=tuple(FILES), **other):
    """Stand-ins for finished notebooks in `run_dir`, with manifests as the notebooks write them."""
    for notebook in notebooks:
        step = steps.Step(notebook, {**checked[notebook], **other, "run_dir": str(run_dir)})
        (step.folder / FILES[notebook]).write_text(f"{notebook} {step.parameters.get('lora_r')}\n")
        step.finish()
    return run_dir


@pytest.fixture(scope="module")
def finished(tmp_path_factory, checked):
    return make(tmp_path_factory.mktemp("finished"), checked)


def actions(run_dir, source, checked):
    return [action.what for action in catch_up.plan("04_merge_push", run_dir, [source], checked)]


def caught_up(*arguments):
    """`course catch-up`; returns the finished process."""
    return course("catch-up", *arguments)


def test_the_message_of_a_notebook_names_the_command(tmp_path, checked):
    with pytest.raises(
        folders.ArtefactError, match='run 01_data first. Or "python -m course catch-up 04" fills in'
    ):
        steps.Step("04_merge_push", {**checked["04_merge_push"], "run_dir": str(tmp_path)})


def test_a_learner_who_starts_at_04(tmp_path, finished, checked):
    (tmp_path / "03_train" / "checkpoints").mkdir(parents=True)  # training that was given up
    given = ("04", "--run-dir", tmp_path, "--from-run", finished)
    done = caught_up(*given)
    assert done.returncode == 0, done.stderr
    announced = done.stdout.index("This takes a few seconds")
    assert announced < done.stdout.index("copied 01_data, 02_quantize_and_lora, 03_train, in")
    assert (tmp_path / "03_train.aside-1" / "checkpoints").is_dir()
    steps.Step("04_merge_push", {**checked["04_merge_push"], "run_dir": str(tmp_path)}).finish()
    again = caught_up(*given)
    assert again.returncode == 0
    assert "kept 01_data, 02_quantize_and_lora, 03_train" in again.stdout


def test_nothing_comes_before_01(tmp_path):
    done = caught_up("01", "--run-dir", tmp_path)
    assert done.returncode == 0 and "nothing to fill in, in" in done.stdout


def test_what_is_put_aside_is_never_overwritten(tmp_path, finished):
    for number in (1, 2):
        (tmp_path / "03_train").mkdir()
        (tmp_path / "03_train" / "tried").write_text(str(number))
        catch_up.copy("03_train", finished, tmp_path)
        assert (tmp_path / f"03_train.aside-{number}" / "tried").read_text() == str(number)
        shutil.rmtree(tmp_path / "03_train")


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
    manifest["inputs"]["code"] = "of a notebook in which somebody tried something"
    files.write_json(tried / "02_quantize_and_lora" / "manifest.json", manifest)
    assert actions(tmp_path / "empty", tried, checked) == ["copy", "copy", "copy"]


def test_a_folder_in_use_is_left_alone(tmp_path, finished):
    (tmp_path / "run" / "01_data").mkdir(parents=True)
    with filelock.FileLock(tmp_path / "run" / "01_data" / ".lock"):  # as a kernel at work holds it
        done = caught_up("02", "--run-dir", tmp_path / "run", "--from-run", finished)
    assert done.returncode == 1 and "01_data is in use by process" in done.stderr


def test_what_is_said_beforehand(tmp_path, capsys):
    actions = [
        catch_up.Action("01_data", "keep", tmp_path),
        catch_up.Action("02_quantize_and_lora", "copy", Path("there")),
        catch_up.Action("03_train", "run", None),
    ]
    (tmp_path / "03_train").mkdir()
    manifest = {"results": "", "seconds": 600}
    files.write_json(tmp_path / "03_train" / "manifest.json", manifest)
    catch_up.announce("04_merge_push", tmp_path, [], actions)
    assert capsys.readouterr().out.splitlines() == [
        f"To start at 04_merge_push in {tmp_path}:",
        "  01_data               is there, kept",
        "  02_quantize_and_lora  copied from there",
        "  03_train              run, about 600 s",
        "This takes about 10 minutes.",
    ]
    assert catch_up.summary(actions) == "kept 01_data; copied 02_quantize_and_lora; ran 03_train"
    files.write_json(tmp_path / "03_train" / "manifest.json", {**manifest, "seconds": 5})
    catch_up.announce("04_merge_push", tmp_path, [], actions)
    assert "This takes a minute or two." in capsys.readouterr().out


def test_which_runs_are_copied_from(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "REPOSITORY", tmp_path)
    (tmp_path / "runs" / "default").mkdir(parents=True)
    (tmp_path / "runs" / "finished").mkdir()
    finished, default = (tmp_path / "runs" / name for name in ("finished", "default"))
    assert catch_up.finished_runs("", tmp_path) == [finished, default]
    assert catch_up.finished_runs("", default) == [finished]
    assert catch_up.finished_runs(str(default), tmp_path) == [default]


@pytest.mark.slow
def test_without_a_finished_run_it_runs_what_is_missing(tmp_path, tiny):
    rows = [f"thing number {i},{'up' if i % 2 else 'down'}\n" for i in range(40)]
    (tmp_path / "mine.csv").write_text("text,label\n" + "".join(rows))
    small = ["-p", "model_id", tiny, "-p", "data_path", tmp_path / "mine.csv"]
    done = caught_up("02", "--run-dir", tmp_path / "run", *small)
    assert done.returncode == 0, done.stderr
    assert "01_data               run, about" in done.stdout and "ran 01_data" in done.stdout
    assert (tmp_path / "run" / "01_data" / "manifest.json").is_file()


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["04", "--from-run", "nowhere"], "no such folder"),
        (["04", "-p", "lora_rr", "1"], "did you mean lora_r?"),
    ],
)
def test_wrong_usage(arguments, sentence, tmp_path):
    done = caught_up(*arguments, "--run-dir", tmp_path / "run")
    assert done.returncode == 2 and sentence in done.stderr and not (tmp_path / "run").exists()


def test_the_readme_has_seconds_for_every_notebook():
    assert all(catch_up.seconds(notebook, []) > 0 for notebook in manifests.NEEDS)


def cell_of_a_lesson(name):
    """The cell of a lesson that catches up, without its comment mark."""
    notebook = nbformat.read(folders.NOTEBOOKS / f"{name}.ipynb", 4)
    (cell,) = (c for c in notebook.cells if c.source.startswith("# %run -m course catch-up"))
    return cell.source.removeprefix("# ")


@pytest.mark.slow
@pytest.mark.parametrize("name", list(manifests.NEEDS)[1:])
def test_the_cell_of_a_lesson_catches_up(tmp_path, finished, monkeypatch, name):
    """In a kernel in notebooks/, with an empty run_dir, which means the usual one, and another."""
    monkeypatch.setenv("COURSE_RUN_DIR", str(tmp_path / "usual"))
    magic = cell_of_a_lesson(name)
    more = f' --from-run "{finished}"'
    if name == "05_evaluate":  # what comes before takes minutes: only that it is refused rightly
        more = ' --from-run "nowhere"'
    other = str(tmp_path / "an other {one}")
    cells = [
        f'run_dir, sys = "", "mine"\n{magic}{more}',
        f"run_dir = {other!r}\n{magic}{more}",
        "print(sys)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        resources={"metadata": {"path": str(folders.NOTEBOOKS)}},
        allow_errors=True,
    )
    client.execute()
    outputs = [cell.outputs for cell in notebook.cells]
    printed = ["".join(out.get("text", "") for out in each) for each in outputs]
    assert printed[2] == "mine\n"  # nothing of the command stays in the notebook's names
    if name == "05_evaluate":
        assert "--from-run nowhere: there is no such folder." in printed[0]
        return
    assert not [out for each in outputs for out in each if out.output_type == "error"]
    for text, place in zip(printed[:2], (tmp_path / "usual", Path(other)), strict=True):
        assert f"{name} can start." in text and "Traceback" not in text
        assert (place / "01_data" / "manifest.json").is_file()
