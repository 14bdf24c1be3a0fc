"""The commands of ``dragwidget``; ``__main__`` names and calls them."""
