import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stav2a_jax.nn.attention import SpatialTransformer, attend, default_implementation, exact_gelu, mask_bias


def _qkv(b=2, tq=5, tk=7, h=3, d=8, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((b, tq, h, d), (b, tk, h, d), (b, tk, h, d))
    return tuple(jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True))


def _by_hand(q, k, v, bias=0.0, scale=None):
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale) + bias
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), v)


BIASES = {
    "none": None,
    "per token": (2, 1, 1, 7),
    "per query": (2, 1, 5, 7),
    "per head": (1, 3, 5, 7),
}


@pytest.mark.parametrize("implementation", ["plain", "chunked", "xla"])
@pytest.mark.parametrize("bias", BIASES)
def test_every_implementation_is_the_definition(implementation, bias):
    q, k, v = _qkv()
    b = None if BIASES[bias] is None else jax.random.normal(jax.random.key(1), BIASES[bias])
    got = attend(q, k, v, b, scale=0.7, implementation=implementation)
    np.testing.assert_allclose(got, _by_hand(q, k, v, 0.0 if b is None else np.asarray(b), 0.7), atol=1e-5)


def test_scale_defaults_to_one_over_the_root_of_the_head_width():
    q, k, v = _qkv()
    np.testing.assert_allclose(attend(q, k, v), _by_hand(q, k, v), atol=1e-5)


@pytest.mark.parametrize("rows", [1, 600])
def test_chunks_give_the_same_answer_and_gradient_as_the_whole(rows):
    q, k, v = _qkv(b=1, tq=600, tk=33, h=2, d=4)  # 600 queries are not a whole number of chunks
    bias = jax.random.normal(jax.random.key(1), (1, 1, rows, 33))

    def loss(implementation):
        return jax.value_and_grad(lambda *a: (attend(*a, implementation=implementation) ** 2).sum(), (0, 1, 2, 3))

    want, got = loss("plain")(q, k, v, bias), loss("chunked")(q, k, v, bias)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, want)


def test_only_large_score_matrices_are_chunked_on_a_cpu():
    small, large = jnp.zeros((1, 512, 1, 8)), jnp.zeros((1, 4096, 1, 8))
    assert default_implementation(small, small, None, "cpu") == "plain"
    assert default_implementation(large, large, None, "cpu") == "chunked"


def test_a_gpu_takes_flash_attention_only_where_cudnn_permits():
    half, full = jnp.zeros((1, 16, 1, 32), jnp.bfloat16), jnp.zeros((1, 16, 1, 32))
    odd = jnp.zeros((1, 16, 1, 12), jnp.bfloat16)
    assert default_implementation(half, half, None, "gpu") == "cudnn"
    assert default_implementation(half, half, jnp.zeros((1, 1, 1, 16)), "gpu") == "xla"
    assert default_implementation(full, full, None, "gpu") == "xla"
    assert default_implementation(odd, odd, None, "gpu") == "xla"
    assert default_implementation(half, half, None, "tpu") == "xla"


def test_an_unknown_implementation_is_named_in_the_error():
    with pytest.raises(ValueError, match="'flash'"):
        attend(*_qkv(), implementation="flash")


@pytest.mark.parametrize("implementation", ["plain", "chunked", "xla"])
def test_half_precision_comes_back_in_half_precision_with_a_float32_softmax(implementation):
    q, k, v = _qkv(dtype=jnp.bfloat16)
    got = attend(q, k, v, implementation=implementation)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(got, np.float32), _by_hand(q, k, v), atol=2e-2)


@pytest.mark.parametrize("dtype", [bool, np.int32, np.float32])
def test_a_masked_token_has_no_influence(dtype):
    q, k, v = _qkv()
    bias = mask_bias(jnp.asarray([[1, 1, 1, 0, 1, 1, 0]] * 2, dtype))
    changed = attend(q, k.at[:, 3].set(9.0), v.at[:, 6].set(9.0), bias)
    np.testing.assert_array_equal(changed, attend(q, k, v, bias))


def test_a_fully_masked_row_is_an_ordinary_softmax_as_in_the_reference():
    q, k, v = _qkv()
    np.testing.assert_allclose(attend(q, k, v, mask_bias(jnp.zeros((2, 7)))), attend(q, k, v), atol=1e-2)


def test_no_mask_is_no_bias():
    assert mask_bias(None) is None


def test_gelu_is_the_exact_one():
    x = jnp.linspace(-5, 5, 101)
    np.testing.assert_allclose(exact_gelu(x), jax.nn.gelu(x, approximate=False), atol=1e-6)


def test_order_of_the_context_tokens_does_not_matter():
    x, context = jax.random.normal(jax.random.key(0), (1, 4, 2, 8)), jax.random.normal(jax.random.key(1), (1, 5, 6))
    model = SpatialTransformer(heads=2, groups=4)
    params = model.init(jax.random.key(2), x, context, None)
    want = model.apply(params, x, context, None)
    np.testing.assert_allclose(model.apply(params, x, context[:, ::-1], None), want, atol=1e-5)


def test_heads_that_do_not_divide_the_channels_are_an_error():
    x = jnp.zeros((1, 4, 2, 8))
    with pytest.raises(ValueError, match="8 channels do not divide into 3 heads"):
        SpatialTransformer(heads=3, groups=4).init(jax.random.key(0), x, jnp.zeros((1, 5, 6)), None)
