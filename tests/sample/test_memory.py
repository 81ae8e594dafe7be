"""What does not fit is refused with the figure; on a mesh what counts is a device's share."""

import jax
import jax.numpy as jnp
import pytest

from lcv_jax.errors import InputError
from lcv_jax.models.dit import DiT
from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.models.precision import FLOAT32
from lcv_jax.parallel.footprint import StepLoad
from lcv_jax.parallel.mesh import MeshConfig
from lcv_jax.sample import memory

CONFIG = DiTConfig(hidden_size=256, depth=4, num_heads=4, caption_channels=64, adaln_tembed_dim=64)


@pytest.fixture(scope="module")
def mesh():
    return MeshConfig().make(jax.local_devices())


def test_what_does_not_fit_is_refused_with_the_figure(monkeypatch, mesh):
    monkeypatch.setattr(memory, "free_bytes", lambda: 3 * memory.GIB)
    memory.check(2 * memory.GIB, "this", "nothing", mesh)
    with pytest.raises(InputError, match=r"this needs about 4\.0 GiB, 3\.0 GiB are free: shrink it"):
        memory.check(4 * memory.GIB, "this", "shrink it", mesh)
    monkeypatch.setattr(memory, "free_bytes", lambda: None)
    memory.check(4 * memory.GIB, "a silent backend", "nothing", mesh)


def test_a_cpu_tells_what_is_free():
    assert memory.free_bytes() > 0


def test_a_cache_shared_by_the_batch_counts_once(mesh):
    dit = DiT(CONFIG, FLOAT32)
    shared, own = (StepLoad((4, 2, 8, 8, 16), 2, 3, rows, 32) for rows in (1, 4))
    keys_and_values = 2 * CONFIG.depth * 3 * 16 * CONFIG.hidden_size * jnp.dtype("float32").itemsize
    assert memory.step_bytes(dit, own, mesh) - memory.step_bytes(dit, shared, mesh) == 3 * keys_and_values
