"""Array to codes."""
