"""The command line imports little, speaks in one sentence, and writes whole clips."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from stav2a_jax import cli
from stav2a_jax.errors import Preempted
from stav2a_jax.training import initial, recipe
from stav2a_jax.training.workspace import Workspace
from stav2a_jax.types import UserError
from stav2a_jax.video import decode


def foley(folder, *more):
    return cli.main(
        ["foley", "--split", "test", "--count", "1", "--size", "48", "--fps", "10", "--out", str(folder), *more]
    )


def test_help_imports_nothing_heavy():
    code = "import sys\nfrom stav2a_jax import cli\ncli.build_parser().format_help()\n"
    code += "print([m for m in ('jax', 'numpy', 'av', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_foley_writes_a_clip_with_its_truth_and_keeps_it(tmp_path, capsys):
    assert foley(tmp_path / "out") == 0
    video, truth = tmp_path / "out" / "foley_test_000000.mp4", tmp_path / "out" / "foley_test_000000.json"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [truth.name, video.name]
    data, info = json.loads(truth.read_text()), decode.probe(video)
    assert data["video"] == video.name
    assert data["events"]
    assert info.seconds == pytest.approx(data["seconds"], abs=0.05)
    assert (info.height, info.width, info.audio_rate) == (48, 48, 48_000)
    before = video.stat().st_mtime_ns
    assert foley(tmp_path / "out") == 0
    assert video.stat().st_mtime_ns == before
    assert "1 were there" in capsys.readouterr().out


def test_clips_of_other_options_are_not_mixed(tmp_path, capsys):
    assert foley(tmp_path) == 0
    assert foley(tmp_path, "--seed", "1") == 2
    error = capsys.readouterr().err
    assert "choose another --out folder" in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_wrong_options_exit_with_2(capsys):
    for argv in ([], ["nonsense"], ["foley"], ["foley", "--out", "x", "--count", "0"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(argv)
        assert caught.value.code == 2
        assert "usage: stav2a" in capsys.readouterr().err


CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "foley_tiny.py"
CONFIGS = {
    "a page of text": (None, "is no python file"),
    "no get_config": ("x = 1\n", "has no get_config() that returns a Config"),
    "another answer": ("def get_config():\n    return 3\n", "has no get_config() that returns a Config"),
    "a mistake": ("def get_config(:\n", "cannot be used (SyntaxError:"),
    "an error": ("\ndef get_config():\n    return 1 / 0\n", "cannot be used, line 3 (ZeroDivisionError:"),
}


@pytest.mark.parametrize(("text", "said"), CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("command", [["train"], ["compile", "--topology", "v5e-4"]], ids=["train", "compile"])
def test_a_file_that_is_no_config_is_one_sentence(tmp_path, capsys, text, said, command):
    path = tmp_path / ("config.py" if text else "README.md")
    path.write_text(text or "# A page\n")
    assert cli.main([*command, "--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert f"{path}" in error
    assert said in error
    assert error.count("\n") == 1


def train(*argv):
    return cli.main(["train", "--config", str(CONFIG), *argv])


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("stages.vocoder.optim.accum=0", "stage 'vocoder' cannot train with optim.accum=0"),
        ("stages.vocoder.optim.schedule=linear", "stage 'vocoder' cannot train with optim.schedule='linear'"),
        ("stages.vocoder.valid_every=0", "stage 'vocoder' cannot train with valid_every=0"),
        ("mode=threads", "unknown mode 'threads'"),
    ],
)
def test_settings_that_cannot_be_trained_are_refused_before_the_folder_is_made(tmp_path, capsys, setting, said):
    assert train("--set", setting, "--out", str(tmp_path / "run")) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("below", [".", "run"])
def test_a_file_is_no_folder_of_a_run(tmp_path, capsys, below):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / below
    assert train("--out", str(out)) == 2
    assert f"{out} cannot be the folder of a run" in capsys.readouterr().err


@pytest.fixture
def deaf():
    """SIGTERM ends no test, should the command not hear it."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    yield
    signal.signal(signal.SIGTERM, before)


def terminate(*args, **options):
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.usefixtures("deaf")
@pytest.mark.parametrize("when", ["config", "init", "bundle"])
def test_a_stop_while_no_stage_trains_has_its_exit_code(tmp_path, capsys, monkeypatch, when):
    config, more = CONFIG, []
    if when == "config":
        config = tmp_path / "config.py"
        config.write_text("import os, signal\n\n\ndef get_config():\n    os.kill(os.getpid(), signal.SIGTERM)\n")
    elif when == "init":
        more = ["--init", "vae=elsewhere"]
        monkeypatch.setattr(initial, "adopt", terminate)
    else:
        monkeypatch.setattr(recipe, "train", lambda *args, **options: None)
        monkeypatch.setattr(Workspace, "done", lambda ws, name: True)
        monkeypatch.setattr(recipe, "make_bundle", terminate)
    assert cli.main(["train", "--config", str(config), "--out", str(tmp_path / "run"), *more]) == 75
    said = capsys.readouterr().err
    assert said == "stav2a: told to stop while no stage was training; the same command goes on from there.\n"


def test_the_command_hears_before_it_imports_anything_heavy():
    code = "import sys\nfrom stav2a_jax import cli\nfrom stav2a_jax.training import stop\n"
    code += "with stop.StopSignal().listening():\n    print([m for m in ('jax', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_scores_that_could_not_be_kept_are_not_made(tmp_path, capsys):
    assert cli.main(["benchmark", "foley", "--json", str(tmp_path / "absent" / "scores.json")]) == 2
    assert "choose another --json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("Bad: do this."), 2, "Bad: do this."),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Preempted("saved at step 7"), 75, "saved at step 7; the same command goes on from there"),
    ],
)
def test_bad_input_and_interruption_have_their_exit_codes(error, code, words, monkeypatch, capsys):
    from stav2a_jax.commands import foley as command

    def run(args):
        raise error

    monkeypatch.setattr(command, "run", run)
    assert cli.main(["foley", "--out", "x"]) == code
    assert capsys.readouterr().err == f"stav2a: {words}{'' if words.endswith('.') else '.'}\n"


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    from stav2a_jax.commands import foley as command

    monkeypatch.setattr(command, "run", lambda args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["foley", "--out", "x"])
