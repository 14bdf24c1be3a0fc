"""What all tests share."""

from hypothesis import settings

# No deadline for one example: a busy machine is slow, which is no fault of the code.
settings.register_profile("dragwidget", deadline=None, max_examples=50)
settings.load_profile("dragwidget")
