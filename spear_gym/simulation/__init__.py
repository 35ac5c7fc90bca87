"""A plan, run: time folded into the batch, weights sliced, walkable layer by layer."""
