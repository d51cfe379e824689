"""The command line imports little, speaks in one sentence, and writes whole clips."""

import json
import subprocess
import sys

import pytest

from stav2a_jax import cli
from stav2a_jax.errors import Preempted
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
