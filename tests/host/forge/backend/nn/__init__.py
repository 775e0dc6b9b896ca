"""Where U-Nets are."""
