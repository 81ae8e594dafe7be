r"""From a folder of raw videos to clips that are annotated, captioned and balanced, and to what each stage trains on.

    python -m lcv_jax.data.curation run configs/curation.py --ingest.sources /videos --out outputs/curation
"""

from lcv_jax.data.curation.pipeline import Curation


def config() -> Curation:
    return Curation()
