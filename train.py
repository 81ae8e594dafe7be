"""Trains a model by a recipe: `python train.py configs/NAME.py --out DIR [--key.sub VALUE]`."""

from lcv_jax.train.cli import main

if __name__ == "__main__":
    main()
