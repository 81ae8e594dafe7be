"""Measurements, `python -m benchmarks.NAME`. README.md says how; results/ holds what came out."""
