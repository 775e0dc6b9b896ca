"""The double has its own (see `forge_twin`)."""
