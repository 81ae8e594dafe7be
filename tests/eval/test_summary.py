"""A line for each figure."""

from lcv_jax.eval.shares import share
from lcv_jax.eval.summary import summary


def test_lines_by_hand():
    film = {"films": 2, "segments": 3, "errors": [1, 2, 3], "first": 1.0, "last": 3.0, "kept": share(2, 2)}
    found = {
        "settings": {},
        "loss": {"t2v": {"loss": 0.5, "error": 0.25, "error by level": [None]}},
        "judge": {"i2v zh": {"clips": 4, "mean": {"colour": 1.0}, "all": share(2, 4), "kept": share(4, 4)}},
        "long": {"en": film | {"ratio": 3.0}, "zh": film | {"ratio": None}},
        "reconstruction": {"pictures": {"clips": 5, "psnr": 31.234, "worst": 28.0, "all": share(5, 5)}},
    }
    kept = "kept 100.0% (34.2% to 100.0%)"
    assert list(summary(found)) == [
        "t2v: loss 0.5000, error 0.2500",
        "i2v zh, 4 clips: all 50.0% (15.0% to 85.0%), kept 100.0% (51.0% to 100.0%)",
        f"long en, 2 films of 3 segments: error of colour 1.00 to 3.00 levels, ratio 3.00; {kept}",
        f"long zh, 2 films of 3 segments: error of colour 1.00 to 3.00 levels, ratio none; {kept}",
        "reconstruction of 5 pictures: 31.23 dB, worst 28.00 dB; all 100.0% (56.6% to 100.0%)",
    ]
    assert list(summary({"settings": {}})) == []
