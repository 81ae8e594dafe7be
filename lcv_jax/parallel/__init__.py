"""Meshes and what is counted about compiled programs. No model code."""
