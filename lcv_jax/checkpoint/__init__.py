"""Official layout <-> parameter pytrees through one strict table; Orbax on disk; LoRA files; hub or local path."""
