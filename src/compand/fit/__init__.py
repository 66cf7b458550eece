"""Data to parameters."""
