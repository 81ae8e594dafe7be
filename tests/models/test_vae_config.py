"""The autoencoder's config: the published JSON, old and new, and what is refused."""

import dataclasses
import json

import pytest

from lcv_jax.errors import InputError
from lcv_jax.models.vae_config import VAEConfig


@pytest.fixture
def published(checkpoint_dir):
    return json.loads((checkpoint_dir / "vae" / "config.json").read_text())


def test_published_config(published):
    config = VAEConfig.from_json(published)
    assert (config.base_dim, config.z_dim, config.dim_mult, config.num_res_blocks) == (12, 16, (1, 2, 4, 4), 2)
    assert config.temporal_downsample == (False, True, True)
    assert (config.spatial_factor, config.temporal_factor) == (8, 4)
    assert config.latents_mean == tuple(published["latents_mean"])
    assert config.latents_std == tuple(published["latents_std"])
    assert hash(config) == hash(dataclasses.replace(config))


def test_what_is_written_is_what_is_published(published):
    """All its fields, with their values, but for the lines that say whose file it is."""
    config = VAEConfig.from_json(published)
    written = json.loads(json.dumps(config.to_json()))
    assert written == {name: value for name, value in published.items() if not name.startswith("_")}
    assert VAEConfig.from_json(written) == config
    small = VAEConfig(4, 2, (1, 3), 1, (True,), latents_mean=(0.5, -1.0), latents_std=(1.0, 2.0), in_channels=1)
    written = json.loads(json.dumps(small.to_json()))
    assert VAEConfig.from_json(written) == small
    assert (written["scale_factor_spatial"], written["scale_factor_temporal"]) == (2, 2)


def test_fields_that_older_files_lack_and_private_keys(published):
    newer = ("is_residual", "patch_size", "decoder_base_dim", "in_channels", "out_channels")
    older = {k: v for k, v in published.items() if k not in newer and not k.startswith("scale_factor")}
    assert VAEConfig.from_json(older) == VAEConfig.from_json(published)
    assert VAEConfig.from_json(published | {"_anything": 1}) == VAEConfig.from_json(published)


@pytest.mark.parametrize("field", ["base_dim", "z_dim", "dim_mult", "temperal_downsample", "latents_std"])
def test_missing_field(published, field):
    del published[field]
    with pytest.raises(InputError, match=f"VAE config: field '{field}' is missing"):
        VAEConfig.from_json(published)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("colour", "red", "unknown field 'colour': expected only base_dim, .*temperal_downsample"),
        ("is_residual", True, "is_residual=True: expected False, the only value supported"),
        ("attn_scales", [1.0], r"attn_scales=\[1.0\]"),
        ("dropout", 0.1, "dropout=0.1"),
        ("patch_size", 2, "patch_size=2: expected None"),
        ("decoder_base_dim", 256, "decoder_base_dim=256"),
        ("base_dim", 0, "base_dim=0: expected a positive whole number"),
        ("z_dim", True, "z_dim=True"),
        ("num_res_blocks", "2", "num_res_blocks='2'"),
        ("dim_mult", 4, "dim_mult=4: expected two or more"),
        ("dim_mult", [1], "two or more positive whole numbers"),
        ("dim_mult", [1, 2, 0, 4], "two or more positive whole numbers"),
        ("temperal_downsample", [True], "temperal_downsample=.* expected 3 of true or false"),
        ("temperal_downsample", [0, 1, 1], "expected 3 of true or false"),
        ("latents_mean", [0.0], "latents_mean=.* expected 16 finite numbers"),
        ("latents_mean", [float("nan")] * 16, "expected 16 finite numbers"),
        ("latents_std", [0.0] * 16, "latents_std=.* expected positive numbers"),
        ("scale_factor_spatial", 16, "scale_factor_spatial=16: expected 8"),
        ("scale_factor_temporal", 8, "scale_factor_temporal=8: expected 4"),
    ],
)
def test_refused_values(published, field, value, message):
    with pytest.raises(InputError, match=message):
        VAEConfig.from_json(published | {field: value})


def test_latent_frames(published):
    config = VAEConfig.from_json(published)
    assert [config.latent_frames(f) for f in (1, 5, 93)] == [1, 2, 24]
    for frames in (0, 2, 4, 94):
        with pytest.raises(InputError, match=r"expected 4n \+ 1 frames"):
            config.latent_frames(frames)
