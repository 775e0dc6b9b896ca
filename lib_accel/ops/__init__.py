"""Pure tensor functions: no state, no models."""
