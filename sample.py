"""Text, image or video to video: `python sample.py {t2v,i2v,vc} --help`."""

from lcv_jax.sample.cli import main

if __name__ == "__main__":
    main()
