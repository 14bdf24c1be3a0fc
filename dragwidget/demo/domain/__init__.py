"""What the images of Critters are drawn from, in torch and differentiable."""
