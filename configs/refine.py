r"""The refinement expert, dense (SPEC 8): a LoRA that leads upsampled clips to 720p, at 15 and at 30 frames a second.

    for fps in 15 30; do for task in t2v i2v vc; do
        case $fps in 15) mode=spatial vc=13;; 30) mode=spatio-temporal vc=26;; esac
        case $task in t2v) given=0;; i2v) given=1;; vc) given=$vc;; esac
        python -m lcv_jax.data.cache --source CLIPS --checkpoint meituan-longcat/LongCat-Video --pairs $mode \
            --cond-frames $given --size 720p --factor 64 --min-texture 3 --out data/pairs-$fps-$task
    done; done
    python train.py configs/refine.py --out runs/refine

Clips of 93 frames at 15 a second and of 186 at 30, so their source must have 30. Hardware: 64 devices of 80 GB. Time: a
batch has the tokens of 16 clips of 186 frames, 60 s at 35 % of an H100's peak: 9 hours. Expected: what configs/
refine_bsa.py begins with. Never run by us; rate and iterations, rank and alpha are the report's; degradations, the
texture's threshold, noise levels and batches are ours.
"""

from lcv_jax.train.config import TrainConfig
from lcv_jax.train.recipes import refined


def config() -> TrainConfig:
    return refined()
