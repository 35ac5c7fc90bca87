"""What is kept of a network: plans, the criteria that rank channels, and surgery."""
