r"""A LoRA of the published model on a folder of one's own clips, text and image to video at 480p.

    python -m lcv_jax.data.cache --source MY_CLIPS --checkpoint meituan-longcat/LongCat-Video --out data/mine
    python train.py configs/lora.py --out runs/mine
    python -m lcv_jax.checkpoint export runs/mine/checkpoints/2000 mine.safetensors
    python sample.py t2v --checkpoint meituan-longcat/LongCat-Video --lora mine.safetensors --prompt "..." \
        --out mine.mp4

MY_CLIPS has a captions.jsonl with a line {"file": "a.mp4", "caption": "..."} for each clip, or a.txt beside a.mp4.
Hardware: one device of 141 GB, or two of 80 GB with --mesh fsdp=2 --data.batches.multiple 2. Time: 9 s a step at the
peak of an H100 or H200, 24 s at 35 % of it: 14 hours. Expected: clips in the manner of one's own from 500 steps on.
Never run by us; rank and alpha are those of the published LoRAs, rate and length are ours.
"""

import dataclasses

from lcv_jax.data.batching import Tasks
from lcv_jax.models.lora import LoRAConfig
from lcv_jax.train.config import TrainConfig
from lcv_jax.train.recipes import TOKENS_480P, published


def config() -> TrainConfig:
    base = published(
        paths={"data/mine": 1.0},
        tokens=TOKENS_480P,
        multiple=1,
        rate=1e-4,
        steps=2_000,
        init="meituan-longcat/LongCat-Video",
        tasks=Tasks(t2v=1, i2v=1),
        mesh="fsdp=-1",
    )
    optimizer = dataclasses.replace(base.optimizer, warmup=100)
    return dataclasses.replace(base, lora=LoRAConfig(), optimizer=optimizer, ema_decay=None, save_every=250)
