"""What was asked of scores and predictions, each with its page and pictures."""
