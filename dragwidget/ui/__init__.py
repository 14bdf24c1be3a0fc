"""The widgets: what is seen and touched in a notebook. The only door to Jupyter."""
