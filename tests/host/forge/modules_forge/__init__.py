"""By this package, and the two of `backend`, the Forge family is told."""
