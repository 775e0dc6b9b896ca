"""What the extension reads of its host, and what it tells it."""
