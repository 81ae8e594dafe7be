r"""The refinement expert with block sparse attention, 1 key block of 16, behind configs/refine.py and on its data.

    python train.py configs/refine_bsa.py --out runs/refine_bsa
    python -m lcv_jax.checkpoint export runs/refine_bsa/checkpoints/500 CHECKPOINT/lora/refinement_lora.safetensors
    python sample.py refine --checkpoint CHECKPOINT --video a.mp4 --out refined.mp4

Hardware: 64 devices of 80 GB. Time: 15 s a step at 35 % of an H100's peak: 2 hours. Expected: the published expert.
Never run by us; rate, iterations and sparsity are the report's.
"""

from lcv_jax.train.config import SparseConfig, TrainConfig
from lcv_jax.train.recipes import refined


def config() -> TrainConfig:
    return refined(attention=SparseConfig(), init_lora="runs/refine/checkpoints/500")
