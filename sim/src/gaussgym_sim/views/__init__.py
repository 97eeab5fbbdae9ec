"""The environment as others want it: gymnasium, a viewer, a replay, a command-level policy."""
