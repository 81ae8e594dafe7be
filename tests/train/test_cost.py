"""What a step computes, counted in its compiled program, against the arithmetic of the model."""

import jax
import pytest

import training
from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.models.dit_geometry import Geometry
from lcv_jax.models.flops import forward_flops
from lcv_jax.models.remat import Remat
from lcv_jax.objectives.objective import Trees
from lcv_jax.objectives.pretrain import Pretrain, Pretraining
from lcv_jax.parallel.hlo import count_flops
from lcv_jax.train.optimizer import AdamW
from lcv_jax.train.state import create
from lcv_jax.train.step import jitted, make_step

pytestmark = pytest.mark.slow

CONFIG = DiTConfig(hidden_size=96, depth=3, num_heads=4, caption_channels=48, adaln_tembed_dim=32)


@pytest.mark.parametrize(("remat", "forwards"), [(Remat.NONE, 3), (Remat.FULL, 4)])
def test_a_step_does_no_more_than_it_must(remat, forwards):
    """A backward pass is two forward ones. With everything computed again, the blocks' forward pass runs once more."""
    optimizer = AdamW(rate=1e-4).make()
    model = training.dit(CONFIG, remat=remat)
    state = jax.eval_shape(lambda: create(training.init(model), optimizer, jax.random.key(0), ema=True))
    batch = training.batch(size=1, frames=5, num_cond=1, config=CONFIG, side=8)
    step = jitted(make_step(Pretrain(model, Pretraining(text_dropout=0)), optimizer))
    counted = count_flops(step.lower(state, batch, Trees()).compile()).total
    ratio = counted / (forwards * forward_flops(CONFIG, Geometry((5, 4, 4), cond=1), text_tokens=3))
    assert 0.95 < ratio < 1.05
