"""Reports as one self-contained HTML page: tables and inline SVG plots, light and dark, no script, nothing loaded from outside."""

from .page import Page, table, tiles
from .plot import Series, bar_plot, line_plot

__all__ = ["Page", "Series", "bar_plot", "line_plot", "table", "tiles"]
