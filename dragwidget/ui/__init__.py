"""The widgets. Only this package imports Jupyter."""
