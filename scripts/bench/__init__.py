"""The GPU benchmark in parts: the smaller card, the weights, the steps, the limits, and what is written of them."""
