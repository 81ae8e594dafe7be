r"""The toy world's text encoder, of the published class: captions in English and Chinese, read into the same facts.

    python -m lcv_jax.data.toy.base --out outputs/toy/base
    python train.py configs/toy_text_encoder.py --out outputs/toy/run-text
    python -m lcv_jax.checkpoint export outputs/toy/run-text/checkpoints/2000 outputs/toy/base/text_encoder

The first command writes the tokenizer. Hardware: any. Time: 64 captions a step, 0.3 s on two cores: eleven minutes.
Expected: all captions of the last 50 steps read without a mistake ("read" in the metrics), measured when the default
checkpoint was trained.
"""

from lcv_jax.train.config import CaptionSettings, TextTrainConfig
from lcv_jax.train.optimizer import Muon
from lcv_jax.train.recipes import TOY_TEXT_ENCODER


def config() -> TextTrainConfig:
    return TextTrainConfig(
        model=TOY_TEXT_ENCODER,
        data=CaptionSettings("outputs/toy/base/tokenizer"),
        optimizer=Muon(rate=3e-3, warmup=50, cooldown=(1_200, 2_000)),
        steps=2_000,
        ema_decay=None,
        save_every=500,
        log_every=50,
    )
