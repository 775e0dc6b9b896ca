"""Editing pictures with a diffusers pipeline: batches, starting points, inversion, options."""
