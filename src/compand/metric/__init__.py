"""How close a reconstruction is: plain functions of a source and what came back."""

from .neighbours import recall
from .reconstruction import Errors, Tally, errors, overall

__all__ = ["Errors", "Tally", "errors", "overall", "recall"]
