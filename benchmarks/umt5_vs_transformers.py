"""umT5's encoder against transformers' UMT5EncoderModel: the same random weights, ids and mask, float32,
this CPU.

A slice of umT5-XXL at its real width: the time of a layer does not depend on how many there are.

    python -m benchmarks.umt5_vs_transformers            # about a minute, 5 GiB
"""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
import tyro

from benchmarks.common import Result, Row, alternate, ratio, seconds, write
from lcv_jax.checkpoint.table import UMT5
from lcv_jax.models.precision import FLOAT32
from lcv_jax.models.umt5 import UMT5Encoder
from lcv_jax.models.umt5_config import UMT5Config
from lcv_jax.parallel.hlo import count_flops


def reference(config: UMT5Config) -> transformers.UMT5EncoderModel:
    """transformers' encoder with weights drawn so that states are of order one."""
    torch.manual_seed(0)
    theirs = transformers.UMT5Config(**config.to_json(), dropout_rate=0.0, num_decoder_layers=1, use_cache=False)
    return transformers.UMT5EncoderModel(theirs).eval()


def parameters(model: UMT5Encoder, theirs: transformers.UMT5EncoderModel) -> dict:
    """Their weights as our pytree, by the table that reads published checkpoints."""
    state = {name: tensor.detach().numpy() for name, tensor in theirs.state_dict().items()}
    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    abstract = jax.eval_shape(model.init, jax.random.key(0), ids, ids)["params"]

    def leaf(path, shape):
        names = UMT5.names("/".join(key.key for key in path), shape.shape[0])
        rows = [place.axes.ours(state[name]) for name, place in names]
        return jnp.asarray(rows[0] if names[0][1].layer is None else np.stack(rows))

    return jax.tree.map_with_path(leaf, abstract)


def least_flops(config: UMT5Config, B: int, L: int) -> int:
    """2 per multiplication of the matrix products: projections, logits and weighted values, gated feed-forward."""
    inner = config.num_heads * config.d_kv
    layer = L * (4 * config.d_model * inner + 3 * config.d_model * config.d_ff) + 2 * L * L * inner
    return 2 * B * config.num_layers * layer


def measure(config: UMT5Config, B: int, L: int, rounds: int) -> Row:
    theirs = reference(config)
    ours = UMT5Encoder(config, FLOAT32)
    params = parameters(ours, theirs)
    rng = np.random.default_rng(0)
    ids = rng.integers(2, config.vocab_size, (B, L)).astype(np.int32)
    mask = np.arange(L) < np.linspace(L, L // 4, B).astype(int)[:, None]
    program = jax.jit(lambda p, i, m: ours.apply({"params": p}, i, m)).lower(params, ids, mask).compile()
    ids_torch, mask_torch = torch.from_numpy(ids).long(), torch.from_numpy(mask).long()

    @torch.inference_mode()
    def run_theirs():
        return theirs(ids_torch, attention_mask=mask_torch).last_hidden_state

    difference = float(np.abs(np.asarray(program(params, ids, mask)) - run_theirs().numpy()).max())
    if difference > 1e-3:
        raise SystemExit(f"outputs differ by {difference:.2g}: nothing to time")
    times = alternate({"ours": lambda: program(params, ids, mask), "transformers": run_theirs}, rounds=rounds)
    least = least_flops(config, B, L)
    figures = seconds(times) | {
        "least_TFLOP": least / 1e12,
        "compiled_over_least_FLOP": count_flops(program).total / least,
        "max_difference": difference,
    }
    case = f"{config.num_layers} layers, width {config.d_model}, {B} x {L} tokens"
    return Row(case, ratio(times, "ours", "transformers"), goal=1.0, figures=figures)


def main(layers: int = 2, tokens: int = 512, batch: int = 1, rounds: int = 7) -> None:
    """layers, tokens, batch: of the slice that is timed. rounds: alternating rounds, of which the median counts."""
    config = UMT5Config(vocab_size=512, num_layers=layers)
    row = measure(config, batch, tokens, rounds)
    write(
        Result(
            "umt5_vs_transformers",
            "umT5 encoder against transformers",
            over="ours / transformers, seconds",
            rows=(row,),
            minimum="none stated for the ratio; least_TFLOP is what the matrix products need",
            notes=f"float32, {torch.get_num_threads()} threads of PyTorch; padding masked out in both.",
        )
    )


if __name__ == "__main__":
    tyro.cli(main)
