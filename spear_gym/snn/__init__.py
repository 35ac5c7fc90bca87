"""What is pruned: spiking networks, and how their structure is read."""
