"""Lists of captions in the shapes in which people have them, and how a clip finds its own."""

import json

import pytest

from stav2a_jax.cli import main
from stav2a_jax.commands.prepare import find_captions
from stav2a_jax.data.prepare.captions import find_caption, join_captions, read_captions
from stav2a_jax.data.prepare.source import file_names, from_folder, from_vggsound
from stav2a_jax.types import UserError

CLIP = {"id": "-0xzrMun0Rs_000030", "youtube": "-0xzrMun0Rs", "start": 30, "label": "lions roaring", "split": "train"}


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "youtube_id,caption\n-0xzrMun0Rs,A lion roars in a zoo.\n"),
        ("b.csv", "audiocap_id,youtube_id,start_time,caption\n7,-0xzrMun0Rs,30,A lion roars in a zoo.\n"),
        ("c.csv", "\ufeffid,caption\n-0xzrMun0Rs_30,A lion roars in a zoo.\n"),
        ("d.csv", "file_name,caption\nwav/Y-0xzrMun0Rs_30000_40000.flac,A lion  roars in a zoo.\n"),
        ("e.jsonl", '{"id": "-0xzrMun0Rs_000030", "caption": "A lion roars in a zoo."}\n\n'),
        ("f.jsonl", '{"video_location": "x/-0xzrMun0Rs_000030.mp4", "captions": ["A lion roars in a zoo.", "Zoo"]}\n'),
    ],
)
def test_a_clip_finds_its_caption_in_every_kind_of_list(tmp_path, name, text):
    listed = read_captions(written(tmp_path / name, text))
    assert find_caption(CLIP, listed) == ("A lion roars in a zoo.", "list")


def test_another_part_of_the_same_video_has_another_caption(tmp_path):
    text = "youtube_id,start_time,caption\n-0xzrMun0Rs,90,Later.\n"
    listed = read_captions(written(tmp_path / "a.csv", text))
    assert find_caption(CLIP, listed) == ("The sound of lions roaring.", "label")


def test_a_caption_beside_a_video_counts_where_no_list_has_one(tmp_path):
    row = {"id": "a", "path": str(tmp_path / "a.mp4"), "label": ""}
    assert find_caption(row, {}) == ("", "none")
    (tmp_path / "a.json").write_text(json.dumps({"caption": "From the JSON."}))
    assert find_caption(row, {}) == ("From the JSON.", "file")
    (tmp_path / "a.txt").write_text("From\nthe text.\n")
    assert find_caption(row, {}) == ("From the text.", "file")
    assert find_caption(row, {"a": "From the list."}) == ("From the list.", "list")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "one,two\n1,2\n", "must name a column of ids"),
        ("a.csv", "id,caption\n", "holds no caption"),
        ("a.csv", "id,caption\na,Rain\nb,A dog, a cat\n", r"a\.csv: line 3 has more cells .* quote captions"),
        ("a.jsonl", "no json\n", "line 1 is not JSON"),
        ("a.jsonl", "[1]\n", "line 1 is not an object"),
    ],
)
def test_a_list_without_captions_is_refused(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message):
        read_captions(written(tmp_path / name, text))


def own(*names):
    return [{"id": name, "label": "", "split": "train"} for name in names]


@pytest.mark.parametrize("prefix", ["", "./", "/data/videos/"])
def test_videos_of_one_name_in_two_folders_have_their_own_captions(tmp_path, prefix):
    text = f"file_name,caption\n{prefix}train/a.mp4,A dog barks.\n{prefix}valid/a.mp4,A train passes.\n"
    listed = read_captions(written(tmp_path / "list.csv", text))
    found = join_captions(own("train/a", "valid/a", "test/a"), listed)
    assert found == {"train/a": "A dog barks.", "valid/a": "A train passes.", "test/a": ""}
    assert find_caption(own("test/a")[0], listed) == ("", "none")


def test_a_clip_does_not_get_the_caption_of_another_folder(tmp_path):
    listed = read_captions(written(tmp_path / "list.csv", "id,caption\ntrain/a,A dog barks.\nwav/b.wav,Rain\n"))
    found = join_captions(own("train/a", "valid/a", "a", "x/b"), listed)
    assert found == {"train/a": "A dog barks.", "valid/a": "", "a": "", "x/b": "Rain"}
    assert find_caption(own("a")[0], found) == ("", "none")


@pytest.mark.parametrize(
    "name", ["abcdefghijk_000030.wav", "x/Yabcdefghijk_30.wav", "abcdefghijk_30_40", "abcdefghijk"]
)
def test_a_start_that_the_name_has_is_not_added_to_it(tmp_path, name):
    text = f"file_name,start_time,caption\n{name},30,A dog barks.\n"
    listed = read_captions(written(tmp_path / "list.csv", text))
    row = {"id": "abcdefghijk_000030", "youtube": "abcdefghijk", "start": 30, "label": "dog"}
    assert find_caption(row, listed) == ("A dog barks.", "list")
    assert find_caption({**row, "start": 60}, listed)[1] == "label"


def test_a_youtube_id_that_looks_like_a_start_gets_its_start(tmp_path):
    listed = read_captions(written(tmp_path / "list.csv", "id,start,caption\nabcdefgh_30,30,Rain\n"))
    row = {"id": "abcdefgh_30_000060", "youtube": "abcdefgh_30", "start": 60, "label": "dog"}
    assert find_caption(row, listed)[1] == "label"
    assert find_caption({**row, "start": 30}, listed)[1] == "list"


@pytest.mark.parametrize("column", ["youtube_id", "video_id", "vggsound_id", "ytid", "file_name", "path"])
def test_a_column_of_names_is_preferred_to_a_counter(tmp_path, column):
    line = json.dumps({"id": 0, column: "-0xzrMun0Rs", "caption": "A lion roars."})
    listed = read_captions(written(tmp_path / "list.jsonl", line))
    assert find_caption(CLIP, listed) == ("A lion roars.", "list")


def test_a_list_of_other_clips_is_refused(tmp_path, capsys):
    (tmp_path / "a.mp4").touch()
    listing = written(tmp_path / "list.csv", "id,caption\nx/b.wav,Rain\n")
    arguments = ["--videos", str(tmp_path), "--captions", str(listing)]
    assert main(["prepare", "--out", str(tmp_path / "set"), *arguments]) == 2
    said = capsys.readouterr().err
    assert "list.csv has a caption of none of the clips: an id of the list is 'x/b', one of the clips 'a'" in said
    assert len(said.splitlines()) == 1


def test_how_many_clips_are_in_the_list_is_said_where_some_are_not(tmp_path, capsys):
    for name in "ab":
        (tmp_path / f"{name}.mp4").touch()
    listing = written(tmp_path / "list.csv", "id,caption\na,Rain\n")
    assert find_captions(listing, from_folder(tmp_path)) == {"a": "Rain", "b": ""}
    assert capsys.readouterr().out == f"1 of 2 clips have their caption from {listing}\n"
    find_captions(listing, from_folder(tmp_path, limit=1))
    assert not capsys.readouterr().out


def test_empty_cells_behind_a_caption_do_no_harm(tmp_path):
    listed = read_captions(written(tmp_path / "list.csv", 'id,caption\na,"A dog, a cat",, \n'))
    assert listed == {"a": "A dog, a cat"}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", b'{"caption": null}', ("", "none")),
        ("a.json", b'\xef\xbb\xbf{"caption": ["Rain.", "Water."]}', ("Rain.", "file")),
        ("a.json", b"[1]", ("", "none")),
        ("a.txt", b"\xef\xbb\xbfRain.\r\n", ("Rain.", "file")),
    ],
)
def test_a_file_beside_a_video_is_read_as_people_write_it(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    assert find_caption({"id": "a", "path": str(tmp_path / "a.mp4"), "label": ""}, {}) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "Lärm".encode("latin-1"), r"a\.txt is not UTF-8"),
        ("a.json", b'{"caption": "\xe4"}', r"a\.json is not UTF-8"),
        ("a.json", b'{"caption": Rain}', r"a\.json is not JSON"),
    ],
)
def test_a_file_beside_a_video_that_cannot_be_read_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        find_caption({"id": "a", "path": str(tmp_path / "a.mp4"), "label": ""}, {})


def test_files_are_found_under_the_names_that_downloaders_give(tmp_path):
    for k, name in enumerate(file_names("-0xzrMun0Rs", 30)):
        folder = tmp_path / str(k) / "deep"
        folder.mkdir(parents=True)
        (folder / f"{name}.webm").touch()
        listing = written(tmp_path / "list.csv", '# comment\n-0xzrMun0Rs,30,"lions, roaring",Test\n')
        source = from_vggsound(listing, tmp_path / str(k))
        assert source.rows == [
            {**CLIP, "label": "lions, roaring", "split": "test", "path": str(folder / f"{name}.webm")}
        ]


def test_what_cannot_be_a_row_says_which_line_it_is(tmp_path):
    lines = ["-0xzrMun0Rs,30,a", "short,1,a,train", "-0xzrMun0Rs,x,a,train", "-0xzrMun0Rs,1,a,dev"]
    source = from_vggsound(written(tmp_path / "list.csv", "\n".join(lines)), tmp_path)
    assert [row["trouble"][0] for row in source.rows] == ["bad_name"] * 4
    assert [row["trouble"][1].split(":")[0].split(" has")[0] for row in source.rows] == [
        f"line {i}" for i in range(1, 5)
    ]


def test_videos_that_no_row_asks_for_are_counted(tmp_path):
    for name in ("-0xzrMun0Rs_000030.mp4", "other.mp4", ".hidden.mp4", "notes.txt"):
        (tmp_path / name).touch()
    source = from_vggsound(written(tmp_path / "list.csv", "-0xzrMun0Rs,30,lions,train\n"), tmp_path)
    assert source.unlisted == 1


def test_a_folder_without_videos_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no video"):
        from_folder(tmp_path)
