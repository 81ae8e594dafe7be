"""Pure array functions: attention, rotary embedding, causal convolution. No flax, no files."""
