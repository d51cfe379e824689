"""Fixtures of the original PyTorch modules, read from $STAV2A_PARITY (default ../shared); see docs/parity.md.

A test that compares is marked ``given(PATTERN, ..., outputs=(PATTERN, ...))``: it runs once for every file of
parity/given that matches and gets it as ``case``. It must check every output that matches (default: all), or it
fails; ``test_coverage.py`` sees to it that nothing is left without a test.
"""

import fnmatch
import importlib.util
import os
import pathlib
import sys

import flax.traverse_util
import jax
import numpy as np
import pytest

from stav2a_jax.config import AutoencoderConfig, TextConfig, VocoderConfig
from stav2a_jax.convert.families import FAMILIES, released_config, schedule_fields
from stav2a_jax.convert.rules import to_flax
from stav2a_jax.convert.transfer import convert, explain
from stav2a_jax.tensors import Tensors

ROOT = pathlib.Path(os.environ.get("STAV2A_PARITY", pathlib.Path(__file__).parents[2].parent / "shared")) / "parity"
TOLERANCE = 1e-4  # max |difference| / rms, but
ABSOLUTE = {"log_magnitude": 1e-3}  # the logarithm of near-zero bins is compared absolutely,
COUNTS = {"wav_int16": 1}  # truncation may fall to either side; other whole numbers are compared exactly
SLOW = "*_tango"

jax.config.update("jax_default_matmul_precision", "highest")


def pytest_configure(config):
    config.addinivalue_line("markers", "given(*patterns, outputs=('*',)): compares each matching fixture as `case`")
    config.addinivalue_line("markers", "standalone: needs PyTorch and no fixtures, so that nothing skips it")


def pytest_generate_tests(metafunc):
    mark = metafunc.definition.get_closest_marker("given")
    if mark is not None:
        files = sorted(path.stem for path in (ROOT / "given").glob("*.npz"))
        names = [n for n in files if matches(n, mark.args)] or list(mark.args)
        slow = [(pytest.mark.slow,) if fnmatch.fnmatchcase(n, SLOW) else () for n in names]
        metafunc.parametrize("case", [pytest.param(n, marks=m) for n, m in zip(names, slow)], indirect=True)


def pytest_collection_modifyitems(items):
    here = pathlib.Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.parity)
            if not (ROOT / "recipe.py").exists() and item.get_closest_marker("standalone") is None:
                item.add_marker(pytest.mark.skip(reason=f"no parity fixtures at {ROOT} (set STAV2A_PARITY)"))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """A test that compares has compared all that it claims."""
    result = yield
    case = pyfuncitem.funcargs.get("case")
    if isinstance(case, Oracle):
        assert not case.unchecked(), f"{case.meta['name']}: never compared: {', '.join(case.unchecked())}"
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI, where the fixtures are there, a parity test that skips has failed. Passes on what was measured."""
    report = yield
    inside = pathlib.Path(__file__).parent in item.path.parents
    if inside and report.skipped and must_not_skip():
        report.outcome, report.longrepr = "failed", f"a parity test must not skip in CI: {report.longrepr}"
    case = getattr(item, "funcargs", {}).get("case")
    if report.when == "call" and isinstance(case, Oracle) and case.checked:
        worst = max(case.checked, key=lambda name: case.checked[name])
        report.user_properties.append(("parity", (case.meta["name"], len(case.checked), case.checked[worst], worst)))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """The same for a file that skips as a whole; PyTorch is there on the Python that the extra ``parity`` is for."""
    report = yield
    inside = pathlib.Path(__file__).parent in collector.path.parents
    if inside and report.skipped and must_not_skip() and sys.version_info < (3, 12):
        report.outcome, report.longrepr = "failed", f"a parity test must not skip in CI: {report.longrepr}"
    return report


def must_not_skip():
    return bool(os.environ.get("CI")) and (ROOT / "recipe.py").exists()


def pytest_terminal_summary(terminalreporter, config):
    """With -v: the worst difference of every test that compared."""
    rows = [
        value
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == "parity"
    ]
    if rows and config.get_verbosity() > 0:
        terminalreporter.section("parity: outputs compared, worst difference")
        for name, count, worst, output in sorted(rows):
            terminalreporter.write_line(f"{name:28} {count:4} {worst:.1e} {output}")


def matches(name, patterns):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


class Oracle:
    """One fixture: its inputs, its recipe weights, and the comparison. ``outputs`` are patterns of what it claims."""

    def __init__(self, name, outputs=()):
        spec = importlib.util.spec_from_file_location("recipe", ROOT / "recipe.py")
        self.recipe = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.recipe)
        self.case = self.recipe.load_case(ROOT / "given" / f"{name}.npz")
        self.meta, self.inputs, self.outputs = self.case.meta, self.case.inputs, self.case.outputs
        self.claimed, self.checked = [n for n in self.outputs if matches(n, outputs)], {}

    def unchecked(self):
        return [name for name in self.claimed if name not in self.checked]

    def shape(self, output):
        """Of the whole output, of which a part may be stored."""
        return tuple(self.meta["outputs"][output]["shape"])

    def manifest(self, role=None):
        """Manifest of a role ('unet', 'vae', ...); of the only one where none is named."""
        names = self.meta["manifests"]
        name = names[role] if role else next(iter(names.values()))
        return self.recipe.load_manifest(ROOT / "manifests" / f"{name}.json")

    def weights(self, role=None, prefix=""):
        """PyTorch state dict (NumPy arrays by key) of the fixture's manifest; the keys under a prefix, which is cut."""
        manifest = self.manifest(role)
        entries = [e for e in manifest["entries"] if e[0].startswith(prefix)]
        state = self.recipe.state_dict({**manifest, "entries": entries}, self.meta["seed"])
        return {key.removeprefix(prefix): value for key, value in state.items()}

    def params(self, module, rules, *inputs, state=None):
        """Converted recipe weights for ``module``, {"params": ...}; ``state`` defaults to :meth:`weights`."""
        shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
        expected = {k: v.shape for k, v in flax.traverse_util.flatten_dict(shapes, sep="/").items()}
        flat = to_flax(self.weights() if state is None else state, rules, expected)
        return {"params": flax.traverse_util.unflatten_dict(flat, sep="/")}

    def check(self, name, array, tolerance=TOLERANCE):
        """The whole output: max|diff| / rms of what is stored, and mean, deviation, norm and limits of all of it.

        ``tolerance`` can only be smaller than the usual one. Whole numbers must be equal, but for ``COUNTS``.
        """
        array, want = np.asarray(array), self.outputs[name]
        report = self.case.check(name, array)
        special = next((end for end in (*ABSOLUTE, *COUNTS) if name.endswith(end)), None)
        measured, limit, scale = report["max_abs"], COUNTS.get(special, 0), 1.0
        if special in ABSOLUTE:
            limit = ABSOLUTE[special]
        elif want.dtype.kind == "f":
            measured, limit = report["max_rel_to_rms"], min(tolerance, TOLERANCE)
            scale = np.sqrt(np.mean(np.square(want, dtype=np.float64))) or 1.0
        assert measured <= limit, f"{name}: {report}"
        if array.size:
            self._check_whole(name, array.astype(np.float64), max(limit, 1e-9) * scale)
        self.checked[name] = float(measured) if want.dtype.kind == "f" and special is None else 0.0

    def _check_whole(self, name, array, slack):
        """What the fixture says of the whole array; each differs by no more than the largest difference."""
        info, size = self.meta["outputs"][name], array.size
        own = {"mean": array.mean(), "std": array.std(), "min": array.min(), "max": array.max()}
        own["l2"] = np.sqrt(np.square(array).sum() / size)
        want = {**info, "l2": info["l2"] / np.sqrt(size)}
        wrong = {k: (v, want[k]) for k, v in own.items() if abs(v - want[k]) > slack}
        assert not wrong, f"{name}: {wrong}"

    def system(self):
        """(ModelConfig, GuidanceConfig, parameters by group) of the fixture's checkpoints, as `stav2a convert` has it:
        sizes read off the tensors and the U-Net's and T5's config.json, behaviour of the release."""
        sizes, roles = self.meta["config"], self.meta["manifests"]
        configs = {"unet": sizes["unet"], "controlnet": sizes["unet"], "t5": sizes["text_encoder"]}
        fields, params = {}, {}
        for role, family in (("model", "stav2a"), ("vae", "audioldm")):
            if role in roles:
                out = convert(Tensors.of(self.weights(role)), FAMILIES[family], configs)
                assert not out.problems, explain(out.problems)
                fields |= out.fields
                params |= {path: jax.numpy.asarray(out.tensors[path]) for path in out.tensors}
        model, guidance = released_config(fields, schedule_fields(sizes["scheduler"]))
        return model, guidance, flax.traverse_util.unflatten_dict(params, sep="/")

    # The modules' sizes, from the configs that the fixtures carry.

    @staticmethod
    def text_config(sizes):
        own = {
            "relative_attention_num_buckets": "relative_buckets",
            "relative_attention_max_distance": "relative_max_distance",
        }
        named = {own.get(key, key): value for key, value in sizes.items()}
        return TextConfig(**{k: v for k, v in named.items() if k in TextConfig.__annotations__})

    @staticmethod
    def autoencoder_config(sizes):
        network = sizes["ddconfig"]
        return AutoencoderConfig(
            base_channels=network["ch"],
            channel_mult=tuple(network["ch_mult"]),
            num_res_blocks=network["num_res_blocks"],
            z_channels=network["z_channels"],
            embed_channels=sizes["embed_dim"],
            scale_factor=sizes["scale_factor"],
        )

    @staticmethod
    def vocoder_config(sizes):
        return VocoderConfig(
            mel_bins=sizes["num_mels"],
            initial_channels=sizes["upsample_initial_channel"],
            upsample_rates=tuple(sizes["upsample_rates"]),
            upsample_kernels=tuple(sizes["upsample_kernel_sizes"]),
            resblock_kernels=tuple(sizes["resblock_kernel_sizes"]),
            resblock_dilations=tuple(map(tuple, sizes["resblock_dilation_sizes"])),
        )


@pytest.fixture
def oracle():
    """Any fixture by name, for its weights: ``oracle("unet_tiny_lin")``."""
    return Oracle


@pytest.fixture
def case(request):
    """The fixture of a test marked ``given``."""
    mark = request.node.get_closest_marker("given")
    return Oracle(request.param, mark.kwargs.get("outputs", ("*",)))


@pytest.fixture
def given():
    """{name: outputs} of every fixture file."""
    return {p.stem: list(Oracle(p.stem).outputs) for p in sorted((ROOT / "given").glob("*.npz"))}
