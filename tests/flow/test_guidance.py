import jax.numpy as jnp
import numpy as np

from lcv_jax.flow.guidance import cfg_zero


def _pair(B=3):
    rng = np.random.default_rng(0)
    return (jnp.asarray(rng.normal(size=(B, 2, 4, 4, 5)), jnp.float32) for _ in range(2))


def test_by_hand_on_two_numbers():
    # <c, u> = 3, |u|^2 = 9, s = 1/3: s u = (1, 0); 1 + 4 * 0, 0 + 4 * 2
    out = cfg_zero(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 0.0]]), 4.0)
    np.testing.assert_allclose(out, [[1.0, 8.0]], atol=1e-6)


def test_each_sample_is_alone():
    c, u = _pair()
    together = cfg_zero(c, u, 4.0)
    for i in range(len(c)):
        np.testing.assert_allclose(cfg_zero(c[i : i + 1], u[i : i + 1], 4.0)[0], together[i], rtol=1e-5)


def test_scale_one_is_no_guidance():
    c, u = _pair()
    np.testing.assert_allclose(cfg_zero(c, u, 1.0), c, atol=1e-6)


def test_a_zero_unconditional_is_finite():
    c, u = _pair()
    np.testing.assert_allclose(cfg_zero(c, 0 * u, 4.0), 4 * c, rtol=1e-6)


def test_bfloat16_is_guided_in_float32():
    c, u = (x.astype(jnp.bfloat16) for x in _pair())
    assert cfg_zero(c, u, 4.0).dtype == jnp.float32
