r"""From a folder of raw videos to what the stages of pre-training and fine-tuning train on.

    python -m lcv_jax.data.curation run configs/curation.py --out curation --ingest.sources VIDEOS \
        --engine.workers 64 --shots.weights transnetv2.safetensors \
        --caption.video.url http://localhost:8000/v1 --caption.video.name Qwen/Qwen2.5-VL-7B-Instruct \
        --caption.writer.url http://localhost:8001/v1 --caption.writer.name Qwen/Qwen2.5-7B-Instruct \
        --balance.namer.url http://localhost:8001/v1 --balance.namer.name Qwen/Qwen2.5-7B-Instruct \
        --embed.path sentence-encoder --pack.checkpoint meituan-longcat/LongCat-Video --pack.out gs://BUCKET
    python -m lcv_jax.data.curation report curation

VIDEOS: a folder, a list, or gs:// or s3://. Without servers captions are those that sources told, without weights shots
are PySceneDetect's; a warning tells so. Clips last from 6.2 seconds, 93 frames at 15 a second, to 20.

Conditions are a beginning, taken from what others' pipelines use, not from the report, which tells no numbers: look at
the report's histograms, and change them (--select.0.where "..."). Clips that a scorer has not seen have null there, and
are left out by its condition. Hardware: CPUs for all stages but captions, which servers make on theirs, and pack, which
encodes on this process's devices; for more hosts see docs/curation/balance.md. Time: docs/curation.md. Never run by us
on more than test footage.
"""

from lcv_jax.data.curation.cuts import Lengths
from lcv_jax.data.curation.engines import EngineSettings
from lcv_jax.data.curation.pipeline import Curation
from lcv_jax.data.curation.selection import Selection
from lcv_jax.data.curation.shots import Shots

SHARP = "blur >= (SELECT quantile_cont(blur, 0.05) FROM clips)"
"""All but the most blurred."""
USUAL = f"source_fps >= 15 AND {SHARP} AND texture_entropy >= 1 AND flow BETWEEN 0.3 AND 20 AND dark < 0.8"
CLEAN = f"{USUAL} AND text_area <= 0.02 AND watermark < 0.5"
CHOSEN = f"{CLEAN} AND coalesce(aesthetic, 10) >= 5.5 AND NOT list_contains(camera, 'shake')"


def config() -> Curation:
    return Curation(
        shots=Shots(lengths=Lengths(least=6.2, most=20.0)),
        select=(
            Selection("videos-256p", f"{USUAL} AND text_area <= 0.07", balanced=False, size="256p"),
            Selection("videos-480p", f"{CLEAN} AND least(width, height) >= 480", balanced=False, size="480p"),
            Selection("videos-720p", f"{CLEAN} AND least(width, height) >= 704", balanced=False, size="720p"),
            Selection("chosen-480p", f"{CHOSEN} AND least(width, height) >= 480", limit=100_000, size="480p"),
            Selection("chosen-720p", f"{CHOSEN} AND least(width, height) >= 704", limit=100_000, size="720p"),
        ),
        engine=EngineSettings(workers=16),
    )
