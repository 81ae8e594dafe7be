"""FLOPs that the DiT's arithmetic needs, from its config: matrix products only, 2 FLOPs a multiply-add.

The counts assume that nothing is done twice or in vain: condition queries score condition keys only, cached frames
cost only their part as keys. `parallel/hlo.py` counts what a compiled program really does.
"""

from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.models.dit_geometry import Geometry


def forward_flops(config: DiTConfig, geometry: Geometry, text_tokens: int, batch: int = 1) -> int:
    """One forward pass of `batch` rows. text_tokens: length of the padded text; 0 for the condition pass."""
    c, g = config, geometry
    D, E, T = c.hidden_size, c.adaln_tembed_dim, g.grid[0]
    tokens = T * g.frame_tokens
    patch = c.patch_size[0] * c.patch_size[1] * c.patch_size[2]

    embed = tokens * patch * c.in_channels * D
    embed += T * (c.frequency_embedding_size * E + E * E)
    embed += text_tokens * (c.caption_channels * D + D * D)
    final = T * E * 2 * D + tokens * D * patch * c.out_channels
    block = T * E * 6 * D + _self_attention(c, g) + _cross_attention(c, g, text_tokens) + 3 * tokens * D * c.ffn_size
    return 2 * batch * (embed + c.depth * block + final)


def _self_attention(c: DiTConfig, g: Geometry) -> int:
    """Multiply-adds of the projections (4 D^2 a token) and of scores and values (2 D a pair)."""
    D, tokens = c.hidden_size, g.grid[0] * g.frame_tokens
    cond = g.cond * g.frame_tokens
    noisy = tokens - cond
    pairs = cond**2 + noisy * (tokens + g.cached * g.frame_tokens)
    return 4 * tokens * D * D + 2 * D * pairs


def _cross_attention(c: DiTConfig, g: Geometry, text_tokens: int) -> int:
    if not text_tokens:
        return 0
    D, noisy = c.hidden_size, (g.grid[0] - g.cond) * g.frame_tokens
    return 2 * noisy * D * D + 2 * text_tokens * D * D + 2 * D * noisy * text_tokens
