"""The forms of a 3x3 convolution are one function, forward and backward, and each is taken where it was measured to be
the fastest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stav2a_jax.nn.conv2d import conv3x3, form_of, form_upsampled, upsampled_conv3x3

pytestmark = pytest.mark.usefixtures("quick_compilation")


def arrays(*shape, out=5):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=s), jnp.float32) for s in (shape, (3, 3, shape[-1], out))]


def value_and_gradients(function, x, kernel, form):
    """Of a sum with unequal weights, so that no position may stand for another."""

    def total(x, kernel):
        y = function(x, kernel, form=form)
        return (y * jnp.arange(y.size, dtype=y.dtype).reshape(y.shape) / y.size).sum(), y

    (_, y), gradients = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(x, kernel)
    return [y, *gradients]


@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (1, 4, 1, 3), (2, 1, 2, 3)])
@pytest.mark.parametrize("form", ["taps", "columns"])
def test_every_form_is_the_same_convolution(form, shape):
    x, kernel = arrays(*shape)
    want = value_and_gradients(conv3x3, x, kernel, "library")
    for a, b in zip(value_and_gradients(conv3x3, x, kernel, form), want, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6 * float(jnp.abs(b).max()))


def test_a_convolution_behind_a_repetition_is_four_convolutions_of_what_is_repeated():
    x, kernel = arrays(2, 5, 3, 4)
    want = value_and_gradients(upsampled_conv3x3, x, kernel, "repeat")
    for a, b in zip(value_and_gradients(upsampled_conv3x3, x, kernel, "phases"), want, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6 * float(jnp.abs(b).max()))


def test_a_repetition_can_end_one_early():
    x, kernel = arrays(1, 3, 2, 4)
    y = upsampled_conv3x3(x, kernel, (5, 3))
    repeated = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)[:, :5, :3]
    np.testing.assert_allclose(y, conv3x3(repeated, kernel, form="library"), atol=1e-5)


def test_forms_are_taken_where_they_are_fast():
    def form(*shape, out=640, backend="cpu", dtype=jnp.float32):
        x, kernel = jax.ShapeDtypeStruct(shape, dtype), jax.ShapeDtypeStruct((3, 3, shape[-1], out), dtype)
        return form_of(x, kernel, backend)

    assert form(2, 32, 2, 640) == "columns"
    assert form(2, 512, 2, 640) == "taps"  # its columns would leave the cache
    assert form(2, 512, 2, 256) == "library"
    assert form(2, 32, 4, 640) == "taps"
    assert form(2, 64, 4, 384) == form(2, 32, 2, 128) == form(2, 32, 2, 640, out=64) == "library"
    assert form(2, 32, 2, 640, backend="gpu") == form(2, 32, 2, 640, dtype=jnp.bfloat16) == "library"
    x = jax.ShapeDtypeStruct((2, 128, 8, 256), jnp.float32)
    assert form_upsampled(x, (256, 16), "cpu") == "phases"
    assert form_upsampled(x, (255, 16), "cpu") == form_upsampled(x, (256, 16), "tpu") == "repeat"


def test_an_unknown_form_is_refused():
    x, kernel = arrays(1, 2, 2, 3)
    with pytest.raises(ValueError, match="expected 'library', 'taps' or 'columns'"):
        conv3x3(x, kernel, form="fft")
    with pytest.raises(ValueError, match="expected 'repeat' or 'phases'"):
        upsampled_conv3x3(x, kernel, form="fft")
