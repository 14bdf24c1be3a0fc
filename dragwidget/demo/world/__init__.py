"""What the pictures of Critters are drawn from, in torch and differentiable."""
