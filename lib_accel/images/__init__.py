"""Pictures: distances between them, labelled grids."""
