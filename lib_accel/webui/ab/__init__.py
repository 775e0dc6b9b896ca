"""The script Accel A/B."""
