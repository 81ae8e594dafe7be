import jax
import jax.numpy as jnp
import pytest

from lcv_jax.errors import InputError
from lcv_jax.models.dit import DiT, abstract_params
from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.models.precision import FLOAT32
from lcv_jax.models.umt5 import TextStates
from lcv_jax.sample import memory
from lcv_jax.sample.denoise import sample_step

CONFIG = DiTConfig(hidden_size=256, depth=4, num_heads=4, caption_channels=64, adaln_tembed_dim=64)


def test_the_estimate_is_near_the_compilers_figure():
    dit = DiT(CONFIG, FLOAT32)
    shape = (1, 6, 32, 48, 16)
    struct = jax.ShapeDtypeStruct
    text = TextStates(struct((2, 32, 64), jnp.float32), struct((2, 32), jnp.bool_))
    step = sample_step.lower(
        dit,
        {"params": abstract_params(CONFIG, FLOAT32)},
        struct(shape, jnp.float32),
        struct((), jnp.float32),
        struct((), jnp.float32),
        text,
        None,
        struct((), jnp.float32),
    ).compile()
    needed = step.memory_analysis().temp_size_in_bytes
    estimate = memory.dit_bytes(dit, shape, 0, guided=True, text_tokens=32)
    assert 0.5 < estimate / needed < 2


def test_what_does_not_fit_is_refused_with_the_figure(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 3 * memory.GIB)
    memory.check(2 * memory.GIB, "this", "nothing")
    with pytest.raises(InputError, match=r"this needs about 4\.0 GiB, 3\.0 GiB are free: shrink it"):
        memory.check(4 * memory.GIB, "this", "shrink it")
    monkeypatch.setattr(memory, "free_bytes", lambda: None)
    memory.check(4 * memory.GIB, "a silent backend", "nothing")


def test_a_cpu_tells_what_is_free():
    assert memory.free_bytes() > 0
