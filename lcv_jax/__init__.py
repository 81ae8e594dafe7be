"""LongCat-Video in JAX.

Axes, used in every shape comment and einsum of the project:
B batch, F pixel frames, T latent frames, H W height and width (pixels, latents or tokens, as stated), h w the same of
latents where the pixels' H W stand beside them, z their channels, C channels, N tokens, L text tokens, K key/value
tokens, D model width, h alone heads, d channels of a head, G groups of outputs of a fused projection, r rank of a LoRA,
layers stacked blocks. Einsums write them in lower case.

Conventions: channels last; video (B, F, H, W, 3) in [-1, 1]; latents (B, T, H, W, 16) normalised; time t in [0, 1],
0 data and 1 noise; velocity = x0 - noise.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lcv_jax.models.umt5 import TextStates
    from lcv_jax.sample.pipeline import Pipeline

__all__ = ["Pipeline", "TextStates"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Pipeline and TextStates are imported when first asked for, so that the light rooms stay light to import."""
    if name == "Pipeline":
        from lcv_jax.sample.pipeline import Pipeline

        return Pipeline
    if name == "TextStates":
        from lcv_jax.models.umt5 import TextStates

        return TextStates
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
