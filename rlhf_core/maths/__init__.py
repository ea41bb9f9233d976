"""Pure functions of tensors: every detail of the method, each with its test vector."""
