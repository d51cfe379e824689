import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from stav2a_jax.convert import rules
from stav2a_jax.convert.rules import ConversionError, Rule, layer, norm, prefixed, to_flax, to_torch, translate

TABLE = (
    *layer("blocks.{i}.fc", "block_{i}/fc"),
    *norm("blocks.{i}.norm", "block_{i}/norm"),
    Rule("position_ids", None, why="a buffer, computed again"),
)
EXPECTED = {
    f"block_{i}/{name}": shape
    for i in range(2)
    for name, shape in {"fc/kernel": (3, 2), "fc/bias": (2,), "norm/scale": (4,), "norm/bias": (4,)}.items()
}


def _state():
    rng = np.random.default_rng(0)
    shapes = {"fc.weight": (2, 3), "fc.bias": (2,), "norm.weight": (4,), "norm.bias": (4,)}
    state = {f"blocks.{i}.{name}": rng.normal(size=shape) for i in range(2) for name, shape in shapes.items()}
    return state | {"position_ids": np.arange(3)}


def test_conversion_round_trips_every_kept_key():
    back = to_torch(to_flax(_state(), TABLE, EXPECTED), TABLE)
    want = {k: v for k, v in _state().items() if k != "position_ids"}
    assert back.keys() == want.keys()
    for key in want:
        np.testing.assert_array_equal(back[key], want[key])


def test_conversion_to_flax_names_every_problem_at_once():
    state = _state() | {"extra.weight": np.zeros(1), "blocks.1.fc.weight": np.zeros((5, 3))}
    del state["blocks.0.norm.bias"], state["position_ids"]
    with pytest.raises(ConversionError) as error:
        to_flax(state, TABLE, EXPECTED)
    text = str(error.value)
    assert text.startswith("4 problems")
    assert "extra.weight: matched by 0 rules" in text
    assert "blocks.1.fc.weight: (3, 5) does not fit block_1/fc/kernel (3, 2)" in text
    assert "block_0/norm/bias: no checkpoint key fills it" in text
    assert "rule 'position_ids' matched nothing" in text


def test_a_key_of_the_wrong_rank_is_reported_once():
    with pytest.raises(ConversionError) as error:
        to_flax(_state() | {"blocks.0.fc.weight": np.zeros((2, 3, 1))}, TABLE, EXPECTED)
    assert str(error.value).startswith("1 problem:")
    assert "blocks.0.fc.weight: (2, 3, 1)" in str(error.value)


def test_a_block_that_the_model_lacks_is_an_error():
    state = _state() | {"blocks.2.fc.bias": np.zeros(2)}
    with pytest.raises(
        ConversionError, match=r"blocks\.2\.fc\.bias: -> block_2/fc/bias, which the model does not have"
    ):
        to_flax(state, TABLE, EXPECTED)


def test_two_rules_for_one_key_are_an_error():
    table = (*TABLE, Rule("blocks.{n}.fc.bias", "other_{n}"))
    with pytest.raises(ConversionError, match=r"blocks\.0\.fc\.bias: matched by 2 rules"):
        to_flax(_state(), table, EXPECTED)


def test_conversion_to_torch_names_every_problem_at_once():
    params = to_flax(_state(), TABLE, EXPECTED)
    params = {k: v for k, v in params.items() if "norm/scale" not in k}
    with pytest.raises(ConversionError) as error:
        to_torch(params | {"head/kernel": np.zeros(1)}, TABLE)
    text = str(error.value)
    assert "2 problems" in text
    assert "head/kernel: matched by 0 rules" in text
    assert "rule 'block_{i}/norm/scale' matched nothing" in text


def test_a_tied_copy_is_checked_and_written_again():
    table = (Rule("shared", "table"), Rule("copy", None, why="tied", tied="shared"))
    state = {"shared": np.arange(3.0), "copy": np.arange(3.0)}
    flat = to_flax(state, table, {"table": (3,)})
    assert list(flat) == ["table"]
    assert to_torch(flat, table).keys() == state.keys()
    with pytest.raises(ConversionError, match="copy: expected a copy of shared"):
        to_flax(state | {"copy": np.zeros(3)}, table, {"table": (3,)})


def test_rules_can_be_put_under_a_prefix():
    table = prefixed((Rule("a.{i}", "a_{i}"), Rule("b", None, tied="a.0")), "unet.", "unet/")
    assert [(r.torch, r.flax, r.tied) for r in table] == [
        ("unet.a.{i}", "unet/a_{i}", None),
        ("unet.b", None, "unet.a.0"),
    ]


def test_a_name_is_translated_by_the_pair_that_matches_it():
    pairs = (("down.{i}", "down_{i}"), ("down.{i}.res.{j}", "down_{i}/res_{j}"))
    assert translate("down.1.res.0", pairs) == "down_1/res_0"
    assert translate("up.1", pairs) is None


def test_a_dot_in_a_template_is_a_dot():
    assert translate("downx1", (("down.{i}", "down_{i}"),)) is None


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("SAME", (2, 3)),
        ("LINEAR", (2, 3)),
        ("CONV1D", (2, 3, 4)),
        ("CONV2D", (2, 3, 4, 5)),
        ("CONV3D", (2, 3, 4, 5, 6)),
        ("CONV_TRANSPOSE1D", (2, 3, 4)),
        ("CONV_TRANSPOSE2D", (2, 3, 4, 5)),
        ("POINTWISE1D", (2, 3, 1)),
        ("POINTWISE2D", (2, 3, 1, 1)),
    ],
)
def test_every_layout_has_an_exact_inverse(name, shape):
    layout, x = getattr(rules, name), np.random.default_rng(0).normal(size=shape)
    np.testing.assert_array_equal(layout.to_torch(layout.to_flax(x)), x)


def test_pointwise_refuses_a_real_kernel():
    with pytest.raises(ValueError, match="not a 1x1 convolution"):
        rules.POINTWISE2D.to_flax(np.zeros((2, 3, 3, 3)))


def _conv(x, w):
    """PyTorch's valid convolution by its definition: x (I, *S), w (O, I, *K) -> (O, *S')."""
    out = np.zeros((w.shape[0], *(s - k + 1 for s, k in zip(x.shape[1:], w.shape[2:], strict=True))))
    for at in np.ndindex(*out.shape[1:]):
        window = x[(slice(None), *(slice(a, a + k) for a, k in zip(at, w.shape[2:], strict=True)))]
        out[(slice(None), *at)] = np.tensordot(w, window, axes=window.ndim)
    return out


@pytest.mark.parametrize(("name", "spatial"), [("CONV1D", (5,)), ("CONV2D", (4, 5)), ("CONV3D", (3, 4, 5))])
def test_a_converted_convolution_computes_the_same(name, spatial):
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(3, 2, *range(2, 2 + len(spatial)))), rng.normal(size=(2, *spatial))
    model = nn.Conv(3, w.shape[2:], padding="VALID", use_bias=False)
    kernel = jnp.asarray(getattr(rules, name).to_flax(w), jnp.float32)
    got = model.apply({"params": {"kernel": kernel}}, jnp.moveaxis(jnp.asarray(x, jnp.float32), 0, -1)[None])
    np.testing.assert_allclose(np.moveaxis(np.asarray(got[0]), -1, 0), _conv(x, w), atol=1e-4)


def test_a_converted_transposed_convolution_computes_the_same():
    rng, stride, padding = np.random.default_rng(0), 3, 2
    w, x = rng.normal(size=(2, 3, 7)), rng.normal(size=(2, 4))  # (I, O, K), (I, L)
    full = np.zeros((3, (4 - 1) * stride + 7))
    for i in range(4):  # the definition: every input sample adds its kernel
        full[:, i * stride : i * stride + 7] += np.einsum("i,iok->ok", x[:, i], w)
    want = full[:, padding:-padding]
    sides = ((7 - 1 - padding,) * 2,)
    model = nn.ConvTranspose(3, (7,), (stride,), sides, use_bias=False, transpose_kernel=True)
    kernel = jnp.asarray(rules.CONV_TRANSPOSE1D.to_flax(w), jnp.float32)
    got = model.apply({"params": {"kernel": kernel}}, jnp.asarray(x.T, jnp.float32)[None])
    np.testing.assert_allclose(got[0].T, want, atol=1e-5)
