"""Cnn14, VGGish and SoundNet against twins written here from the published layer lists, at full size.

The twins' front ends do not share a line with ours.
"""

import itertools
import pathlib
import tempfile

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from stav2a_jax.cli import main
from stav2a_jax.convert.rules import ConversionError, to_torch
from stav2a_jax.convert.tables.panns import PANNS, panns_params
from stav2a_jax.convert.tables.vggish import VGGISH, vggish_params
from stav2a_jax.evaluation import backbones
from stav2a_jax.models import panns, soundnet, vggish

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

TOLERANCE = 1e-4  # max |difference| / rms


def recipe_state(module, seed=0):
    """Numbers for every entry of a state dict, sized as the rules of parity/recipe.py say."""
    rng = np.random.default_rng(seed)
    norms = {n for n, m in module.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}

    def draw(key, value):
        owner, _, leaf = key.rpartition(".")
        if value.dtype == torch.int64:
            return np.zeros((), np.int64)
        z = rng.standard_normal(value.shape, np.float32)
        if owner in norms:
            return {"weight": 1 + 0.1 * z, "running_var": 1 + 0.2 * np.abs(z)}.get(leaf, 0.1 * z)
        return 0.02 * z if leaf == "bias" else z * np.float32(value[0].numel() ** -0.5)

    return {key: draw(key, value) for key, value in module.state_dict().items()}


def loaded(module, state):
    """The module in eval mode with a state of NumPy arrays."""
    module.load_state_dict(tensors(state), strict=True)
    return module.eval()


def empty(module_class):
    """The module without memory or random numbers, for its keys."""
    with torch.device("meta"):
        return module_class()


def agree(got, want):
    want = want.detach().numpy()
    worst = np.abs(np.asarray(got) - want).max() / np.sqrt(np.mean(np.square(want, dtype=np.float64)))
    print(f"max |difference| / rms = {worst:.1e}")
    assert worst < TOLERANCE


def clip(seconds, rate, seed=1):
    """A sound with silence, noise and ringing in it."""
    rng, t = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
    wave = 0.02 * rng.normal(size=len(t)) * (t % 1.0 > 0.2)
    for k, start in enumerate(np.arange(0.1, seconds, 0.37)):
        wave += (t >= start) * 0.4 * np.exp(-20 * np.maximum(t - start, 0)) * np.sin(2 * np.pi * 300 * (k + 1) * t)
    return wave.astype(np.float32)


class TwinCnn14(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn0 = nn.BatchNorm2d(64)
        before = 1
        for i, width in enumerate((64, 128, 256, 512, 1024, 2048), start=1):
            block = nn.Module()
            block.conv1 = nn.Conv2d(before, width, 3, padding=1, bias=False)
            block.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
            block.bn1, block.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
            setattr(self, f"conv_block{i}", block)
            before = width
        self.fc1, self.fc_audioset = nn.Linear(2048, 2048), nn.Linear(2048, 527)

    def forward(self, log_mel):
        x = self.bn0(log_mel.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)[:, None]
        for i in range(1, 7):
            block = getattr(self, f"conv_block{i}")
            x = F.relu(block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x))))))
            x = F.avg_pool2d(x, 2 if i < 6 else 1)
        x = x.mean(3)
        x = x.amax(2) + x.mean(2)
        embedding = F.relu(self.fc1(x))
        return embedding, self.fc_audioset(embedding)


def twin_log_mel(wave):
    """torch.stft and mel triangles built by hand: Slaney's scale is linear to 1 kHz, then logarithmic."""

    def hertz(mel):
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))

    edges = hertz(np.linspace(50 * 3 / 200, 15 + np.log(8.0) * 27 / np.log(6.4), 66))
    low, mid, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    f = np.linspace(0, 8000, 257)
    weights = np.maximum(0, np.minimum((f - low) / (mid - low), (high - f) / (high - mid))) * 2 / (high - low)
    window = torch.hann_window(512, dtype=torch.float64)
    spectrum = torch.stft(torch.from_numpy(wave).double(), 512, 160, window=window, return_complex=True)
    power = (torch.from_numpy(weights) @ spectrum.abs().square()).clamp(min=1e-10)
    return (10 * power.log10()).T.float()


class TwinVggish(nn.Module):
    def __init__(self):
        super().__init__()
        layers, before = [], 1
        for width in (64, "M", 128, "M", 256, 256, "M", 512, 512, "M"):
            if width == "M":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
        self.features = nn.Sequential(*layers)
        sizes = (512 * 4 * 6, 4096, 4096, 128)
        dense = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
        self.embeddings = nn.Sequential(*dense)

    def forward(self, patches):
        x = self.features(patches[:, None])
        return self.embeddings[:-1](x.permute(0, 2, 3, 1).flatten(1))


def twin_patches(wave):
    """AudioSet's front end, with torch.stft and HTK triangles between 125 and 7500 Hz."""
    edges = np.linspace(1127 * np.log(1 + 125 / 700), 1127 * np.log(1 + 7500 / 700), 66)
    f = 1127 * np.log(1 + np.linspace(0, 8000, 257) / 700)
    rise = (f - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - f) / np.diff(edges)[1:, None]
    weights = np.maximum(0, np.minimum(rise, fall))
    weights[:, 0] = 0
    window = torch.hann_window(400, dtype=torch.float64)
    frames = torch.from_numpy(wave).double().unfold(0, 400, 160) * window
    magnitude = torch.fft.rfft(frames, 512).abs()
    log_mel = (magnitude @ torch.from_numpy(weights).T + 0.01).log().float()
    return log_mel[: len(log_mel) // 96 * 96].reshape(-1, 96, 64)


class TwinSoundNet(nn.Module):
    SIZES = ((16, 64, 8), (32, 32, 8), (64, 16, 1), (128, 8, 1), (256, 4, 4), (512, 4, 1), (1024, 4, 1))

    def __init__(self):
        super().__init__()
        before = 1
        for i, (width, kernel, _) in enumerate(self.SIZES, start=1):
            setattr(self, f"conv{i}", nn.Conv1d(before, width, kernel, 2, padding=kernel // 2))
            setattr(self, f"bn{i}", nn.BatchNorm1d(width))
            before = width
        self.objects, self.scenes = nn.Conv1d(1024, 1000, 8, 2), nn.Conv1d(1024, 401, 8, 2)

    def forward(self, wave):
        x = wave[:, None]
        for i, (_, _, pool) in enumerate(self.SIZES, start=1):
            x = F.max_pool1d(F.relu(getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x))), pool)
        return x.mean(2), self.objects(x).mean(2), self.scenes(x).mean(2)


@pytest.fixture
def scratch():
    """A folder that is gone after the test: the weights are large."""
    with tempfile.TemporaryDirectory() as folder:
        yield pathlib.Path(folder)


def converted(family, content, folder):
    """The backbone that the command line makes of a PyTorch file with this content."""
    torch.save(content, folder / "published.pth")
    assert main(["convert", family, str(folder / "published.pth"), "--out", str(folder / "ours")]) == 0
    (folder / "published.pth").unlink()
    return backbones.load({"cnn14": "panns"}.get(family, family), folder / "ours")


def tensors(state):
    return {key: torch.from_numpy(np.array(value)) for key, value in state.items()}


@pytest.mark.long
def test_cnn14_equals_its_twin_from_the_published_file_and_the_waveform_on(scratch):
    state = recipe_state(empty(TwinCnn14))
    twin = loaded(TwinCnn14(), state)
    front = dict.fromkeys(("conv_real", "conv_imag"), np.zeros((257, 1, 512), np.float32))
    extra = {f"spectrogram_extractor.stft.{k}.weight": v for k, v in front.items()}
    extra["logmel_extractor.melW"] = np.zeros((257, 64), np.float32)
    network = converted("cnn14", {"iteration": 1, "model": tensors(state | extra)}, scratch)
    waves = [clip(2.0, 16_000), clip(2.5, 16_000)]
    mels = [panns.log_mel(w) for w in waves]
    assert len({network.bucket(mel) for mel in mels}) == 1
    for features, mel, wave in zip(network.embed(mels), mels, waves, strict=True):
        want = twin_log_mel(wave)
        assert np.abs(mel - want.numpy()).max() < 1e-3  # dB
        embedding, logits = twin(want[None])
        agree(features["embedding"], embedding[0])
        agree(features["logits"], logits[0])


@pytest.mark.long
def test_vggish_equals_its_twin_from_the_published_file_and_the_waveform_on(scratch):
    state = recipe_state(empty(TwinVggish))
    twin = loaded(TwinVggish(), state)
    network = converted("vggish", tensors(state), scratch)
    waves = [clip(2.5, 16_000), clip(1.0, 16_000, seed=2)]
    inputs = [vggish.patches(wave) for wave in waves]
    for features, patches, wave in zip(network.embed(inputs), inputs, waves, strict=True):
        want = twin_patches(wave)
        assert patches.shape == tuple(want.shape)
        assert np.abs(patches - want.numpy()).max() < 1e-5
        agree(features["embedding"], twin(want))


def test_soundnet_equals_its_twin():
    state = recipe_state(empty(TwinSoundNet))
    twin = loaded(TwinSoundNet(), state)
    wave = clip(11.0, 22_050)[None] * soundnet.FULL_SCALE
    params = {}
    for i in range(1, 8):
        params[f"conv{i}"] = {"kernel": state[f"conv{i}.weight"].transpose(2, 1, 0), "bias": state[f"conv{i}.bias"]}
        names = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
        params[f"norm{i}"] = {ours: state[f"bn{i}.{theirs}"] for ours, theirs in names.items()}
    for name in ("objects", "scenes"):
        params[name] = {"kernel": state[f"{name}.weight"].transpose(2, 1, 0), "bias": state[f"{name}.bias"]}
    got = jax.jit(soundnet.SoundNet().apply)({"params": params}, wave)
    for ours, theirs in zip(got, twin(torch.from_numpy(wave)), strict=True):
        agree(ours, theirs)


@pytest.mark.parametrize(("twin", "rules", "convert"), [(TwinVggish, VGGISH, vggish_params)])
def test_the_tables_lead_back_to_the_same_file(twin, rules, convert):
    shapes = {key: np.broadcast_to(np.float32(0), v.shape) for key, v in empty(twin).state_dict().items()}
    back = to_torch(flatten_dict(convert(shapes), sep="/"), rules)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in shapes.items()}


def test_the_network_for_32_khz_is_refused():
    shapes = {key: np.broadcast_to(np.float32(0), v.shape) for key, v in empty(TwinCnn14).state_dict().items()}
    with pytest.raises(ConversionError, match="take the 16 kHz network"):
        panns_params(shapes | {"logmel_extractor.melW": np.zeros((513, 64))})
    assert {rule.torch.split(".")[0] for rule in PANNS} >= {"bn0", "fc1", "fc_audioset"}
