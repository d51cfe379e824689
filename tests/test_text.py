import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stav2a_jax.config import TextConfig
from stav2a_jax.models.text import TextEncoder, bucket_of, relative_buckets

CFG = TextConfig(vocab_size=40, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=2)


@pytest.fixture(scope="module")
def encoder():
    model = TextEncoder(CFG)
    return model, model.init(jax.random.key(0), jnp.zeros((1, 3), jnp.int32))


def test_padding_does_not_change_the_answer(encoder):
    model, params = encoder
    ids = jnp.array([[5, 6, 7, 1], [8, 1, 0, 0]])
    mask = jnp.array([[1, 1, 1, 1], [1, 1, 0, 0]])
    out = model.apply(params, jnp.pad(ids, ((0, 0), (0, 5))), jnp.pad(mask, ((0, 0), (0, 5))))
    np.testing.assert_allclose(out[0, :4], model.apply(params, ids[:1])[0], atol=1e-5)
    np.testing.assert_allclose(out[1, :2], model.apply(params, ids[1:, :2])[0], atol=1e-5)


def test_padded_ids_are_never_seen(encoder):
    model, params = encoder
    mask = jnp.array([[1, 1, 0, 0]])
    a, b = (model.apply(params, jnp.array([[5, 1, *tail]]), mask) for tail in ((0, 0), (9, 9)))
    np.testing.assert_allclose(a[:, :2], b[:, :2], atol=1e-6)


def test_a_row_without_any_token_stays_finite(encoder):
    model, params = encoder
    assert np.isfinite(model.apply(params, jnp.zeros((1, 3), jnp.int32), jnp.zeros((1, 3), jnp.int32))).all()


def test_position_bias_is_one_table_shared_by_all_layers(encoder):
    _, params = encoder
    flat = jax.tree_util.tree_leaves_with_path(params)
    tables = [path for path, _ in flat if "relative" in jax.tree_util.keystr(path)]
    assert len(tables) == 1


def test_buckets_are_exact_below_eight_and_split_by_sign():
    relative = np.array([0, -1, -7, 1, 7, -8, -200, 200])
    assert bucket_of(relative, 32, 128).tolist() == [0, 1, 7, 17, 23, 8, 15, 31]
    assert relative_buckets(3, 32, 128).tolist() == [[0, 17, 18], [1, 0, 17], [2, 1, 0]]


def test_word_order_matters(encoder):
    model, params = encoder
    a, b = (model.apply(params, jnp.array([ids])) for ids in ([5, 6, 1], [6, 5, 1]))
    assert np.abs(np.asarray(a[0, 2] - b[0, 2])).max() > 1e-3


def test_layers_gives_the_stream_from_embedding_to_output(encoder):
    model, params = encoder
    ids = jnp.array([[5, 6, 1]])
    stream = model.apply(params, ids, layers=True)
    assert len(stream) == CFG.num_layers + 1
    np.testing.assert_array_equal(stream[0], params["params"]["embedding"][ids])
    np.testing.assert_array_equal(stream[-1], model.apply(params, ids))


def test_half_precision_keeps_a_float32_residual_stream(encoder):
    _, params = encoder
    ids = jnp.array([[5, 6, 1]])
    half = TextEncoder(CFG, jnp.bfloat16).apply(params, ids)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, TextEncoder(CFG).apply(params, ids), atol=0.1)
