"""Compress arrays into small discrete codes, store them safely, compute on the codes."""
