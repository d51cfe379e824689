"""Lists of captions in the shapes in which people have them, and how a clip finds its own."""

import json

import pytest

from stav2a_jax.data.prepare.captions import find_caption, read_captions
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
        ("a.jsonl", "no json\n", "line 1 is not JSON"),
        ("a.jsonl", "[1]\n", "line 1 is not an object"),
    ],
)
def test_a_list_without_captions_is_refused(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message):
        read_captions(written(tmp_path / name, text))


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
