"""Checkpoints are opened lazily, whatever their packing, and a bad one is refused in one sentence."""

import json
import pickle
import subprocess
import sys
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from stav2a_jax.convert.read import open_checkpoint, sha256, verify
from stav2a_jax.tensors import Tensors, read_safetensors, write_safetensors
from stav2a_jax.types import UserError

STATE = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.half": np.arange(3, dtype=np.float16),
    "b.brain": np.arange(4).astype(ml_dtypes.bfloat16),
    "b.steps": np.array(7, np.int64),
    "b.none": np.zeros((0, 3), np.float32),
}


def same(got, want):
    assert set(got) == set(want)
    for key, array in want.items():
        assert got[key].dtype == array.dtype, key
        np.testing.assert_array_equal(got[key], array, err_msg=key)


def safetensors_file(path, state=STATE):
    safetensors.numpy.save_file(dict(state), path)
    return path


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def torch_file(torch, path, state=None, **options):
    """A state dict as torch writes it; ``state`` may be nested."""

    def tensor(value):
        if isinstance(value, dict):
            return {k: tensor(v) for k, v in value.items()}
        if getattr(value, "dtype", None) == ml_dtypes.bfloat16:
            return torch.from_numpy(value.astype(np.float32)).bfloat16()
        return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value

    torch.save(tensor(STATE if state is None else state), path, **options)
    return path


def test_a_safetensors_file_keeps_every_bit_and_dtype(tmp_path):
    checkpoint = open_checkpoint(safetensors_file(tmp_path / "model.safetensors"))
    same(checkpoint.tensors, STATE)
    assert checkpoint.tensors.shapes == {key: array.shape for key, array in STATE.items()}


def test_shapes_are_known_before_a_tensor_is_read(tmp_path):
    path = safetensors_file(tmp_path / "model.safetensors")
    tensors = open_checkpoint(path).tensors
    path.unlink()
    assert tensors.shapes["a.weight"] == (2, 3)
    with pytest.raises(FileNotFoundError):
        tensors["a.weight"]


def test_what_is_written_as_a_stream_is_what_the_library_reads(tmp_path):
    write_safetensors(tmp_path / "out.safetensors", Tensors.of(STATE), {"format": "pt"})
    same(safetensors.numpy.load_file(tmp_path / "out.safetensors"), STATE)
    same(read_safetensors(tmp_path / "out.safetensors"), STATE)


def test_a_large_file_costs_one_tensor_of_memory(tmp_path):
    entry = np.ones((1024, 256), np.float32)  # 1 MB
    write_safetensors(tmp_path / "a.safetensors", Tensors.of({f"x{i}": entry for i in range(32)}))
    tracemalloc.start()
    write_safetensors(tmp_path / "b.safetensors", read_safetensors(tmp_path / "a.safetensors"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * entry.nbytes
    assert sha256(tmp_path / "a.safetensors") == sha256(tmp_path / "b.safetensors")


def test_a_write_that_fails_leaves_nothing(tmp_path):
    tensors = Tensors.of(STATE)
    broken = Tensors({k: e._replace(shape=(9,)) if k == "b.steps" else e for k, e in tensors.entries.items()})
    with pytest.raises(ValueError, match=r"b\.steps"):
        write_safetensors(tmp_path / "out.safetensors", broken)
    assert list(tmp_path.iterdir()) == []


def test_safetensors_need_no_torch(tmp_path):
    safetensors_file(tmp_path / "model.safetensors")
    code = "import sys; sys.modules['torch'] = None\n"
    code += "from stav2a_jax.convert.read import open_checkpoint as o; from stav2a_jax.types import UserError\n"
    code += f"print(len(o({str(tmp_path / 'model.safetensors')!r}).tensors))\n"
    (tmp_path / "x.bin").write_bytes(b"PK")
    code += f"try: o({str(tmp_path / 'x.bin')!r})\nexcept UserError as e: print(e)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{len(STATE)}\n")
    assert "PyTorch is not installed" in done.stdout


def test_shards_are_one_checkpoint(tmp_path):
    safetensors_file(tmp_path / "1.safetensors", {k: v for k, v in STATE.items() if k[0] == "a"})
    safetensors_file(tmp_path / "2.safetensors", {k: v for k, v in STATE.items() if k[0] == "b"})
    index = {"weight_map": {k: "1.safetensors" if k[0] == "a" else "2.safetensors" for k in STATE}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    checkpoint = open_checkpoint(tmp_path)
    same(checkpoint.tensors, STATE)
    assert [file.name for file in checkpoint.files] == ["1.safetensors", "2.safetensors"]


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"weight_map": {"a.weight": "3.safetensors"}}, "1 shards that are not there, 3.safetensors"),
        ({"weight_map": {"c": "1.safetensors"}}, "lacks c, which"),
        ({"weight_map": {"a": "../1.safetensors"}}, "outside its folder"),
        ({}, "no weight_map"),
        ([], "no JSON object"),
    ],
)
def test_a_wrong_index_is_refused(tmp_path, index, words):
    safetensors_file(tmp_path / "1.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=words):
        open_checkpoint(tmp_path / "model.safetensors.index.json")


def test_a_folder_gives_its_weights_and_its_config(tmp_path):
    safetensors_file(tmp_path / "diffusion_pytorch_model.safetensors")
    safetensors_file(tmp_path / "other.safetensors", {"x": np.zeros(1)})
    (tmp_path / "config.json").write_text('{"d_model": 4}')
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config == {"d_model": 4}
    assert checkpoint.files == (tmp_path / "diffusion_pytorch_model.safetensors",)
    (tmp_path / "diffusion_pytorch_model.safetensors").rename(tmp_path / "another.safetensors")
    with pytest.raises(UserError, match=r"several files with weights \(another.safetensors, other.safetensors\)"):
        open_checkpoint(tmp_path)


def test_torch_files_keep_every_bit_and_dtype(tmp_path, torch):
    for name, options in (("new.bin", {}), ("old.pt", {"_use_new_zipfile_serialization": False})):
        checkpoint = open_checkpoint(torch_file(torch, tmp_path / name, **options))
        verify(checkpoint)
        same(checkpoint.tensors, STATE)


def test_a_state_dict_is_found_in_a_training_file(tmp_path, torch):
    state = {"epoch": 66, "best": np.float64(0.5), "state_dict": {f"module.{k}": v for k, v in STATE.items()}}
    checkpoint = open_checkpoint(torch_file(torch, tmp_path / "epoch66.ckpt", state))
    same(checkpoint.tensors, STATE)
    assert (checkpoint.nest, checkpoint.module) == ("state_dict", True)


def test_shards_of_torch_are_one_checkpoint(tmp_path, torch):
    torch_file(torch, tmp_path / "1.bin")
    index = {"weight_map": dict.fromkeys(STATE, "1.bin")}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    same(open_checkpoint(tmp_path).tensors, STATE)


class Trap:
    """What a pickle can carry: a call, here of a harmless function, made when it is loaded."""

    called = False

    def __reduce__(self):
        return _spring, ()


def _spring():
    Trap.called = True


def test_a_pickle_that_would_run_code_is_not_run(tmp_path, torch):
    torch.save({"a": torch.zeros(2), "b": Trap()}, tmp_path / "zip.bin")
    for protocol in (2, 5):
        (tmp_path / f"{protocol}.ckpt").write_bytes(pickle.dumps({"a": Trap()}, protocol))
    for name, words in (("zip.bin", r"_spring\), which could run code"), ("2.ckpt", "run"), ("5.ckpt", "run")):
        with pytest.raises(UserError, match=words) as caught:
            open_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not Trap.called


def test_a_changed_byte_is_noticed(tmp_path, torch):
    path = torch_file(torch, tmp_path / "a.bin", {"a": np.arange(4096, dtype=np.float32), "b": np.ones(3)})
    content = bytearray(path.read_bytes())
    content[content.find(np.float32(2000).tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"the data of a/data/0 differ from their checksum"):
        verify(open_checkpoint(path))


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.99])
def test_a_file_that_was_cut_short_is_refused(tmp_path, keep):
    whole = safetensors_file(tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(UserError, match="damaged or cut short") as caught:
        open_checkpoint(tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9, 0.99])
def test_a_torch_file_that_was_cut_short_is_refused(tmp_path, torch, keep):
    whole = torch_file(torch, tmp_path / "a.bin", {"a": np.ones(9999, np.float32)}).read_bytes()
    (tmp_path / "a.bin").write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(UserError, match="damaged or cut short"):
        verify(open_checkpoint(tmp_path / "a.bin"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\x00\x01\x02 nothing that is known", "its first bytes are unknown"),
        (b"\xff\xff\xff\xff\x00\x00\x00\x00{", "damaged or cut short"),
    ],
)
def test_something_else_is_refused_by_its_first_bytes(tmp_path, content, words):
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(UserError, match=words):
        open_checkpoint(tmp_path / "model.bin")


def test_what_holds_no_weights_is_refused(tmp_path, torch):
    for name, state in (("list.bin", [1, 2]), ("numbers.bin", {"epoch": 3}), ("empty.bin", {})):
        torch.save(state, tmp_path / name)
        with pytest.raises(UserError, match="holds no state dict"):
            open_checkpoint(tmp_path / name)
    with pytest.raises(UserError, match="no such file"):
        open_checkpoint(tmp_path / "absent.bin")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="holds no weights"):
        open_checkpoint(tmp_path / "folder")
