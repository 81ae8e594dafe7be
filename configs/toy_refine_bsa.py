r"""The toy world's refinement expert with block sparse attention, 1 key block of 16, behind configs/toy_refine.py.

    python train.py configs/toy_refine_bsa.py --out outputs/toy/run-refine-bsa
    python -m lcv_jax.checkpoint export outputs/toy/run-refine-bsa/checkpoints/300 \
        outputs/toy/checkpoint/lora/refinement_lora.safetensors
    python -m lcv_jax.eval --checkpoint outputs/toy/checkpoint --toy 100 --tasks refine --max-text-tokens 48 \
        --refine-dense outputs/toy/refine-dense.safetensors --sheet outputs/refine.png --out toy-refine.json

Hardware: any. Time: not measured. Expected: sharper than upsampled and what is shown kept, within 1 point of dense. Not
run yet.
"""

from lcv_jax.train.config import TrainConfig
from lcv_jax.train.recipes import TOY_BLOCKS, toy_refined


def config() -> TrainConfig:
    return toy_refined(
        rate=2e-3,
        steps=300,
        cooldown=(200, 300),
        attention=TOY_BLOCKS,
        init_lora="outputs/toy/run-refine/checkpoints/500",
    )
