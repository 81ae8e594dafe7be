"""Linen modules and their frozen configs: DiT, VAE, umT5. The only room that imports flax."""
