"""The accordion, its previews and the user's own presets."""
