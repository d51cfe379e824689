from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stav2a_jax.diffusion.guidance import Chain, combined, guided, guided_multi

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32)
T = jnp.array([5, 900])
SCALES = st.floats(-3, 8, width=32)


class Condition(NamedTuple):
    """Any pytree will do, None included."""

    context: jax.Array
    gain: jax.Array
    nothing: None = None


def condition(value, gain=1.0):
    return Condition(jnp.full((2, 3, 1), value) + jnp.arange(2.0).reshape(2, 1, 1), jnp.full((2, 1, 1), gain))


class Counting:
    """A denoiser that remembers how many rows each call had."""

    def __init__(self):
        self.rows = []

    def __call__(self, x_t, t, cond):
        self.rows.append(len(x_t))
        return jnp.sin(x_t) * t.reshape(-1, 1, 1) / 1000 + cond.context * cond.gain


CHAIN = Chain(condition(0.1, 0.0), condition(0.1), condition(0.4), condition(1.7))


def test_text_guidance_is_null_plus_scale_times_the_difference_in_one_call():
    network = Counting()
    full, null = condition(2.0), condition(0.5)
    out = guided(network, 3.0)(X, T, (full, null))
    assert network.rows == [4]
    u, c = network(X, T, null), network(X, T, full)
    np.testing.assert_allclose(out, u + 3 * (c - u), rtol=1e-6)


def test_two_calls_of_half_the_rows_give_the_same():
    network = Counting()
    pair = (condition(2.0), condition(0.5))
    apart = guided(network, 3.0, batched=False)(X, T, pair)
    assert network.rows == [2, 2]
    np.testing.assert_allclose(apart, guided(network, 3.0)(X, T, pair), rtol=1e-6)


def test_the_null_half_comes_first():
    seen = []
    guided(lambda x, t, c: seen.append(c.context[:, 0, 0]) or x, 2.0)(X, T, (condition(5.0), condition(0.0)))
    np.testing.assert_array_equal(seen[0], [0, 1, 5, 6])


@settings(max_examples=20, deadline=None)
@given(SCALES, SCALES, st.floats(0, 1, width=32))
def test_guidance_is_linear_in_its_scale(a, b, mix):
    pair = (condition(2.0), condition(0.5))

    def at(scale):
        return guided(Counting(), scale)(X, T, pair)

    np.testing.assert_allclose(at(mix * a + (1 - mix) * b), mix * at(a) + (1 - mix) * at(b), atol=2e-4)


@settings(max_examples=20, deadline=None)
@given(SCALES, SCALES, SCALES)
def test_guidance_of_three_conditions_is_the_chain_of_differences(text, global_, local):
    network = Counting()
    e = [network(X, T, c) for c in CHAIN]
    want = e[0] + local * (e[1] - e[0]) + global_ * (e[2] - e[1]) + text * (e[3] - e[2])
    got = guided_multi(network, text=text, global_=global_, local=local)(X, T, CHAIN)
    np.testing.assert_allclose(got, want, atol=2e-4)


@pytest.mark.parametrize(
    ("scales", "evaluations"),
    [
        ({"text": 1.0}, 1),
        ({"text": 3.0}, 2),
        ({"text": 3.0, "global_": 3.0, "local": 3.0}, 2),
        ({"text": 3.0, "global_": 3.0}, 2),
        ({"text": 3.0, "global_": 2.0, "local": 2.0}, 3),
        ({"text": 4.0, "global_": 3.0, "local": 2.0}, 4),
        ({"text": 0.0, "global_": 0.0, "local": 0.0}, 1),
    ],
)
def test_the_network_is_not_called_for_members_that_cancel(scales, evaluations):
    network = Counting()
    guided_multi(network, **scales)(X, T, CHAIN)
    assert network.rows == [2 * evaluations]


def test_the_default_is_the_released_guidance():
    released = guided(Counting(), 3.0)(X, T, (CHAIN.full, CHAIN.local_global))
    np.testing.assert_array_equal(guided_multi(Counting())(X, T, CHAIN), released)


def test_a_scale_may_be_traced_and_differ_between_examples():
    pair = (condition(2.0), condition(0.5))
    out = jax.jit(lambda scale: guided(Counting(), scale)(X, T, pair))(jnp.array([1.0, 4.0]))
    np.testing.assert_allclose(out[0], guided(Counting(), 1.0)(X, T, pair)[0], rtol=1e-5)
    np.testing.assert_allclose(out[1], guided(Counting(), 4.0)(X, T, pair)[1], rtol=1e-5)


def test_weights_of_a_mixture_may_be_anything_that_adds_up_to_one():
    conditions = (condition(1.0), condition(2.0), condition(3.0))
    out = combined(Counting(), (0.5, 0.25, 0.25))(jnp.zeros_like(X), T, conditions)
    np.testing.assert_allclose(out[0], 1.75, rtol=1e-6)


def test_a_denoiser_that_shares_gets_latents_once_and_a_common_leaf_once():
    seen = []

    def network(x_t, t, cond):
        seen.append((len(x_t), len(t), len(cond.context), len(cond.gain)))
        return jnp.concatenate([x_t] * (len(cond.context) // len(x_t))) + cond.context * cond.gain[0]

    gain = jnp.full((2, 1, 1), 0.5)
    chain = tuple(condition(value)._replace(gain=gain) for value in (0.1, 0.2, 0.3, 1.7))
    got = guided_multi(network, text=3.0, repeat=False)(X, T, chain)
    assert seen == [(2, 2, 4, 2)]
    np.testing.assert_allclose(got, guided_multi(network, text=3.0, batched=False)(X, T, chain), rtol=1e-5)
