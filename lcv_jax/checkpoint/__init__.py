"""Official layout <-> parameter pytrees: one strict table, Orbax on disk, LoRA files, hub or local path."""
