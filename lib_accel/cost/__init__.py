"""What a U-Net call costs and what a setting saves of it: multiply-adds, estimates, previews."""
