"""What recipes of one family have in common; configs/ holds the recipes."""

import dataclasses
from collections.abc import Mapping

from lcv_jax.data.batching import Tasks
from lcv_jax.data.clip_batches import ClipSet, ClipSettings
from lcv_jax.data.loader import Settings
from lcv_jax.models.dit_config import BlockSparseConfig, DiTConfig
from lcv_jax.models.lora import CFG_STEP_LINEARS, REFINEMENT_LINEARS, LoRAConfig
from lcv_jax.models.remat import Remat
from lcv_jax.models.umt5_config import UMT5Config
from lcv_jax.models.vae_config import VAEConfig
from lcv_jax.objectives.distillation import Distillation
from lcv_jax.objectives.pretrain import ConditionNoise, Pretraining
from lcv_jax.objectives.refine import Refinement
from lcv_jax.train.config import DataConfig, SampleConfig, SparseConfig, TrainConfig, VAETrainConfig
from lcv_jax.train.optimizer import AdamW, Muon

TOKENS_256P = 24 * 16 * 16
TOKENS_480P = 24 * 30 * 52
TOKENS_720P = 24 * 44 * 80
"""Of a video of 93 frames in 256 x 256, 480 x 832 and 704 x 1280."""

ALL_TASKS = Tasks(t2v=2, i2v=1, vc=1, vc_latents=(4,))
"""Text, image and 13 frames to video. The report mixes them without telling the shares; these are ours."""
DRIFT = ConditionNoise(probability=0.5, level=0.1)
"""Noise on condition frames of continuations; the report names it without numbers, these are ours."""

TOY_VAE = VAEConfig(
    base_dim=16,
    z_dim=16,
    dim_mult=(1, 2, 4, 4),
    num_res_blocks=1,
    temporal_downsample=(False, True, True),
    latents_mean=(0.0,) * 16,
    latents_std=(1.0,) * 16,
)
"""2.6 million parameters, 5 MB in bfloat16; the statistics are measured when it is exported."""
TOY_VAE_CLIPS = (
    ClipSet("toy:1000000", "64x64x1", batch=8, weight=1),
    ClipSet("toy:1000000", "64x64x13", window=(32, 32), batch=4, weight=3),
    ClipSet("toy:1000000", "64x64x29", window=(32, 32), batch=2, weight=1),
)
"""Pictures, and windows of clips; some are long, as an autoencoder that has seen 9 frames only takes their end for the
end of all videos."""
TOY_TEXT_ENCODER = UMT5Config(vocab_size=256, d_model=128, d_kv=32, d_ff=256, num_layers=3, num_heads=4)
"""Half a million parameters, 1 MB in bfloat16."""
TOY_MODEL = DiTConfig(
    hidden_size=192,
    depth=8,
    num_heads=3,
    caption_channels=128,
    adaln_tembed_dim=128,
    text_tokens_zero_pad=False,  # so that captions may be padded to any length
    bsa_params=BlockSparseConfig(
        (2, 2, 2), (2, 2, 2), sparsity=0.9375
    ),  # of 32 blocks in 13 refined frames, 2 are kept
)
"""6 million parameters, 12 MB in bfloat16."""
TOY_BLOCKS = SparseConfig(block=(2, 2, 2))
"""Its block sparse attention in training."""
TOY_PROMPTS = (
    "A red circle moves to the right on a plain grey background.",
    "A green star turns.",
    "一个蓝色的正方形向上移动。",
    "A yellow heart grows and a purple triangle stays still.",
)


def published(
    *,
    paths: Mapping[str, float],
    tokens: int,
    rate: float,
    steps: int,
    init: str | None,
    multiple: int = 64,
    tasks: Tasks | None = None,
    mesh: str = "fsdp=64",
) -> TrainConfig:
    """A stage of the 13.6B model's pre-training on 64 devices (SPEC 8): its rate and iterations are the report's;
    batch, warm-up, decay and mean are not published, and ours.

    paths: datasets and their shares of the batches. tokens: of a batch. multiple: what a batch's samples divide by.
    """
    return TrainConfig(
        model=DiTConfig(),
        data=DataConfig(
            paths=tuple(paths),
            weights=tuple(paths.values()),
            batches=Settings(tokens=tokens, multiple=multiple, tasks=tasks or Tasks()),
        ),
        optimizer=AdamW(rate=rate),
        steps=steps,
        checkpoint="meituan-longcat/LongCat-Video",
        init=init,
        objective=Pretraining(condition_noise=_against_drift(tasks)),
        mesh=mesh,
    )


def toy(
    *,
    paths: Mapping[str, float],
    tokens: int,
    rate: float,
    steps: int,
    init: str | None,
    cooldown: tuple[int, int] | None = None,
    tasks: Tasks | None = None,
    frames: int = 13,
) -> TrainConfig:
    """A stage of the toy world's model, on whatever devices there are.

    Levels are shifted by 2 for pictures of 16 tokens, by 4 for clips of 64: a choice, not compared with others, as what
    is drawn is simple and shows through much noise.
    """
    return TrainConfig(
        model=TOY_MODEL,
        data=DataConfig(
            paths=tuple(paths),
            weights=tuple(paths.values()),
            batches=Settings(tokens=tokens, multiple=8, tasks=tasks or Tasks(), text_tokens=48),
        ),
        optimizer=Muon(rate=rate, warmup=100, cooldown=cooldown),
        steps=steps,
        checkpoint="outputs/toy/base",
        init=init,
        objective=Pretraining(condition_noise=_against_drift(tasks), shift_tokens=4),
        remat=Remat.NONE,
        ema_decay=0.999,
        save_every=500,
        log_every=50,
        samples=SampleConfig(every=2000, prompts=TOY_PROMPTS, height=64, width=64, frames=frames, steps=25),
    )


def distilled(objective: Distillation, *, steps: int, ema_decay: float, init_lora: str | None = None) -> TrainConfig:
    """A distillation of the published model on the data of stage 5 (SPEC 8), into the LoRA of SPEC 7. Rate, steps and
    the LoRA's rank are the report's, the rest is ours."""
    base = published(
        paths={"data/images-480p": 1.0, "data/videos-480p": 1.5, "data/videos-720p": 1.5},
        tokens=32 * TOKENS_720P,
        multiple=32,
        rate=5e-5,
        steps=steps,
        init="meituan-longcat/LongCat-Video",
        tasks=ALL_TASKS,
        mesh="data=2,fsdp=16,context=2",
    )
    return _student(base, objective, LoRAConfig(), ema_decay, init_lora)


def toy_distilled(
    objective: Distillation,
    *,
    rate: float,
    steps: int,
    cooldown: tuple[int, int],
    ema_decay: float,
    init_lora: str | None = None,
) -> TrainConfig:
    """The same of the toy world's model, on the data of its last stage."""
    base = toy(
        paths={"outputs/toy/images": 1.0, "outputs/toy/videos": 9.0},
        tokens=40 * 64,
        rate=rate,
        steps=steps,
        cooldown=cooldown,
        init="outputs/toy/checkpoint",
        tasks=Tasks(t2v=2, i2v=1, vc=1, vc_latents=(2,)),
    )
    return _student(base, objective, LoRAConfig(rank=16, alpha=8.0), ema_decay, init_lora)


def _student(
    base: TrainConfig, objective: Distillation, lora: LoRAConfig, ema_decay: float, init_lora: str | None
) -> TrainConfig:
    """A run of a LoRA on the data of another run, whose samples are made as the student is sampled."""
    return dataclasses.replace(
        base,
        objective=objective,
        lora=dataclasses.replace(lora, modules=CFG_STEP_LINEARS),
        init_lora=init_lora,
        optimizer=AdamW(rate=base.optimizer.rate, warmup=50, cooldown=base.optimizer.cooldown),
        ema_decay=ema_decay,
        save_every=250,
        samples=dataclasses.replace(base.samples, distilled=True, steps=16, guidance=1.0),
    )


def refined(*, attention: SparseConfig | None = None, init_lora: str | None = None) -> TrainConfig:
    """Training of the published model's refinement LoRA (SPEC 8): rate, steps, rank and sparsity are the report's.

    Pairs are of both modes and all tasks, each a dataset of its own; their shares, and the batch, are ours.
    """
    shares = {"t2v": 2.0, "i2v": 1.0, "vc": 1.0}
    base = published(
        paths={f"data/pairs-{fps}-{task}": share for fps in (15, 30) for task, share in shares.items()},
        tokens=16 * 2 * TOKENS_720P,
        multiple=16,
        rate=5e-5,
        steps=500,
        init="meituan-longcat/LongCat-Video",
        mesh="fsdp=16,context=4",
    )
    return _refiner(base, Refinement(), LoRAConfig(), attention, init_lora)


def toy_refined(
    *,
    rate: float,
    steps: int,
    cooldown: tuple[int, int],
    attention: SparseConfig | None = None,
    init_lora: str | None = None,
) -> TrainConfig:
    """The same of the toy world's model: 64 x 64 to 128 x 128, with 13 frames for 13, and 26 for 13."""
    base = toy(
        paths={"outputs/toy/pairs-spatial": 1.0, "outputs/toy/pairs-spatio-temporal": 1.0},
        tokens=16 * 4 * 8 * 8,
        rate=rate,
        steps=steps,
        cooldown=cooldown,
        init="outputs/toy/checkpoint",
    )
    return _refiner(base, Refinement(shift=3.0), LoRAConfig(rank=16, alpha=8.0), attention, init_lora)


def _refiner(
    base: TrainConfig,
    objective: Refinement,
    lora: LoRAConfig,
    attention: SparseConfig | None,
    init_lora: str | None,
) -> TrainConfig:
    """A run of a LoRA on pairs. It makes no samples, which would be of text alone."""
    return dataclasses.replace(
        base,
        objective=objective,
        lora=dataclasses.replace(lora, modules=REFINEMENT_LINEARS),
        init_lora=init_lora,
        attention=attention,
        optimizer=AdamW(rate=base.optimizer.rate, warmup=50, cooldown=base.optimizer.cooldown),
        ema_decay=None,
        save_every=100,
        samples=SampleConfig(),
    )


def toy_vae(
    sets: tuple[ClipSet, ...], *, steps: int, cooldown: tuple[int, int] | None, init: str | None
) -> VAETrainConfig:
    """A stage of the toy world's autoencoder."""
    return VAETrainConfig(
        model=TOY_VAE,
        data=ClipSettings(sets),
        optimizer=Muon(rate=1e-3, warmup=50, weight_decay=0, cooldown=cooldown),
        steps=steps,
        init=init,
        ema_decay=0.99,
        save_every=500,
        log_every=50,
    )


def _against_drift(tasks: Tasks | None) -> ConditionNoise:
    return DRIFT if tasks is not None and tasks.vc else ConditionNoise()
