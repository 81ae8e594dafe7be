r"""The whole way of data in the toy world: videos in a folder to a dataset that the toy model trains on, on a laptop.

    python -m lcv_jax.data.toy --out raw --count 24 --size 64x64 --frames 45
    python -m lcv_jax.data.curation run configs/toy_curation.py \
        --ingest.sources raw/captions.jsonl --out outputs/curation

The last line that it prints is what `python train.py configs/toy_laptop.py` takes behind it. Clips are encoded by the
default checkpoint, 64 x 64 and 13 frames. Hardware: any. Time: two minutes on two cores that are busy. Expected: 24
clips, all of them kept, in one or two datasets.
"""

from lcv_jax.checkpoint.default import default_checkpoint
from lcv_jax.data.curation.balance import Balance
from lcv_jax.data.curation.cuts import Lengths
from lcv_jax.data.curation.packing import Packing
from lcv_jax.data.curation.pipeline import Curation
from lcv_jax.data.curation.selection import Selection
from lcv_jax.data.curation.shots import Shots


def config() -> Curation:
    return Curation(
        shots=Shots(lengths=Lengths(least=1.0, most=10.0)),
        balance=Balance(clips_each=4),
        select=(Selection("toy", size="64x64", frames=(13,), kinds=("told",), smallest_group=8),),
        pack=Packing(checkpoint=str(default_checkpoint()), max_text_tokens=48, batch=4),
    )
