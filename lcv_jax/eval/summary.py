"""The figures in a few lines, for people."""

from collections.abc import Iterator, Mapping
from typing import Any


def summary(found: Mapping[str, Any]) -> Iterator[str]:
    """found: what `Eval.run` returns."""
    for task, told in found.get("loss", {}).items():
        yield f"{task}: loss {told['loss']:.4f}, error {told['error']:.4f}"
    for name, told in found.get("judge", {}).items():
        shares = (f"{what} {_share(told[what])}" for what in told if what not in ("clips", "mean"))
        yield f"{name}, {told['clips']} clips: {', '.join(shares)}"
    for language, told in found.get("long", {}).items():
        ratio = "none" if told["ratio"] is None else f"{told['ratio']:.2f}"
        yield (
            f"long {language}, {told['films']} films of {told['segments']} segments: error of colour "
            f"{told['first']:.2f} to {told['last']:.2f} levels, ratio {ratio}; kept {_share(told['kept'])}"
        )
    for name, told in found.get("reconstruction", {}).items():
        decibels = f"{told['psnr']:.2f} dB, worst {told['worst']:.2f} dB"
        yield f"reconstruction of {told['clips']} {name}: {decibels}; all {_share(told['all'])}"
    for language, ways in found.get("refine", {}).items():
        for name, told in ways.items():
            figures = f"sharpness {told['sharpness']:.2f}, {told['psnr']:.2f} dB"
            yield f"refine {language}, {told['clips']} clips {name}: all {_share(told['all'])}, {figures}"


def _share(told: Mapping[str, Any]) -> str:
    low, high = told["interval"]
    return f"{told['share']:.1%} ({low:.1%} to {high:.1%})"
