"""The widget in a real browser: Debian's Chromium, driven by Playwright, on a real Jupyter server.

``conftest`` says what is needed; ``pages`` is what a test speaks to; ``test_harness`` shows how.
"""
