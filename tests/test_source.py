"""Which file belongs to which line of a list, which clips a folder holds, and which files are whole."""

import importlib.util
import os
import pathlib

import av
import pytest

from stav2a_jax.cli import build_parser, main
from stav2a_jax.commands.prepare import find_source
from stav2a_jax.data.prepare.media import Dropped, examine
from stav2a_jax.data.prepare.settings import PrepareSettings
from stav2a_jax.data.prepare.source import from_folder, from_vggsound

_SPEC = importlib.util.spec_from_file_location(
    "prepare_drill", pathlib.Path(__file__).parents[1] / "benchmarks" / "prepare.py"
)
drill = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(drill)

ONE, TWO = "abcdefghijk_000030", "abcdefghijk_000060"


def listed(folder, *lines, limit=None, files=()):
    for name in files:
        (folder / name).touch()
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    return from_vggsound(folder / "list.csv", folder, limit)


def troubles(source):
    return {row["id"]: row["trouble"] for row in source.rows if "trouble" in row}


LINES = ("abcdefghijk,30,dog barking,train", "abcdefghijk,60,cat meowing,test")


def test_a_file_without_start_does_not_serve_two_starts(tmp_path):
    source = listed(tmp_path, *LINES, files=["abcdefghijk.mp4"])
    for name, (reason, detail) in troubles(source).items():
        assert reason == "missing"
        assert detail.startswith(f"no file {name}.* in the folder; abcdefghijk.mp4 does not say which of the 2 starts")
    assert len(troubles(source)) == 2
    assert source.unlisted == 0  # the list has its id
    assert len(troubles(listed(tmp_path, *LINES, limit=1))) == 1


def test_a_file_with_its_start_is_found_beside_one_without(tmp_path):
    source = listed(tmp_path, *LINES, files=["abcdefghijk.mp4", "abcdefghijk_60.mp4"])
    assert list(troubles(source)) == [ONE]
    assert source.rows[1]["path"] == str(tmp_path / "abcdefghijk_60.mp4")


def test_a_limit_does_not_make_the_files_of_later_lines_unlisted(tmp_path):
    source = listed(tmp_path, *LINES, limit=1, files=[f"{ONE}.mp4", f"{TWO}.mp4", "other.mp4"])
    assert [row["id"] for row in source.rows] == [ONE]
    assert source.unlisted == 1


@pytest.mark.parametrize(
    "header",
    ["youtube_id,start_seconds,label,split", "# YouTube ID,start seconds,label,split", "YTID,time,class,split"],
)
def test_a_header_is_no_clip(tmp_path, header):
    source = listed(tmp_path, header, LINES[0], files=[f"{ONE}.mp4"])
    assert [row["id"] for row in source.rows] == [ONE]
    assert not troubles(source)


def test_a_start_may_be_written_with_a_point(tmp_path):
    source = listed(tmp_path, "abcdefghijk,30.0,dog,train", "abcdefghijk,30.5,dog,train", files=[f"{ONE}.mp4"])
    assert source.rows[0]["path"] == str(tmp_path / f"{ONE}.mp4")
    assert troubles(source) == {"line_2": ("bad_name", "line 2: the start '30.5' is no number of seconds")}


def test_a_line_is_named_by_its_number_in_the_file(tmp_path):
    source = listed(tmp_path, "# comment", "", '"abcdefghijk",30,"dog,\nbarking",train', "short,1,a,train")
    assert list(troubles(source)) == [ONE, "line_5"]


def test_linked_folders_are_entered_once(tmp_path):
    (tmp_path / "pool" / "deep").mkdir(parents=True)
    (tmp_path / "pool" / "deep" / "a.mp4").touch()
    own = tmp_path / "own"
    own.mkdir()
    (own / "valid").symlink_to(tmp_path / "pool")
    (tmp_path / "pool" / "deep" / "back").symlink_to(tmp_path / "pool")
    (own / "self").symlink_to(own)
    (own / "above").symlink_to(tmp_path)
    rows = from_folder(own).rows
    assert [(row["id"], row["split"]) for row in rows if not row["id"].startswith("above")] == [
        ("valid/deep/a", "valid")
    ]
    assert [row["id"] for row in rows if row["id"].startswith("above")] == ["above/pool/deep/a"]


def test_a_split_of_generated_clips_is_named_once(tmp_path, capsys):
    assert main(["prepare", "--out", str(tmp_path / "set"), "--foley", "train=1", "--foley", "train=1"]) == 2
    said = capsys.readouterr().err
    assert "--foley names a split twice" in said
    assert len(said.splitlines()) == 1


def test_a_limit_holds_for_generated_clips():
    arguments = ["prepare", "--out", "set", "--foley", "train=2", "--foley", "valid=2", "--limit", "3"]
    assert [row["split"] for row in find_source(build_parser().parse_args(arguments)).rows] == [
        *("train", "train", "valid")
    ]


def remuxed(source, path, pictures=20):
    """The packets of a clip in the container that the suffix names, with the first ``pictures`` pictures only."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        streams = {stream: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.dts is None or (packet.stream.type == "video" and packet.pts * packet.time_base >= pictures / 10):
                continue
            packet.stream = streams[packet.stream]
            new.mux(packet)
    return path


@pytest.mark.parametrize("suffix", ["mkv", "flv"])
def test_a_file_that_states_one_length_for_all_is_truncated_where_everything_ends_early(tmp_path, suffix):
    drill.write_clip(tmp_path / "whole.mp4", 1)
    settings = PrepareSettings(min_seconds=0.5)
    whole = remuxed(tmp_path / "whole.mp4", tmp_path / f"whole.{suffix}")
    assert examine({"path": str(whole)}, settings).seconds == pytest.approx(2.0)
    silent_end = remuxed(tmp_path / "whole.mp4", tmp_path / f"short.{suffix}", pictures=10)
    assert examine({"path": str(silent_end)}, settings).seconds == pytest.approx(1.0)  # its sound goes on to the end
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[: os.path.getsize(whole) // 2])
    with pytest.raises(Dropped, match=r"ends after 1\.\d+ of 2\.\d+ s") as dropped:
        examine({"path": str(cut)}, settings)
    assert dropped.value.reason == "truncated"
