"""From raw video to a training set (SPEC section 9): `python -m lcv_jax.data.curation run configs/curation.py --out
DIR`.

Stages, in order: ingest, shots, clips, annotate, caption, embed work on one item after the other, each in its own
process (stage.py says what a stage is, engines.py what runs it), and keep what they found in the library, a folder of
Parquet files (library.py). What looks at all items at once (duplicates, clusters, selections) is computed again from
the library each time. records.py has the one schema of a clip; docs/curation.md tells what each field means and how
good it is.

Nothing is deleted for a score: scores are stored, and thresholds stand in the filters of the selections only.
"""
