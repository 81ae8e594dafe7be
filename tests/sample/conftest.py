import pytest

from lcv_jax import Pipeline


@pytest.fixture(scope="session")
def pipe(checkpoint_dir):
    """The golden checkpoint in float32."""
    return Pipeline.from_pretrained(checkpoint_dir, dtype="float32")
