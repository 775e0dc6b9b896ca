"""The parts of Forge that the extension asks by name."""
