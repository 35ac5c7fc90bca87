"""What is kept of every evaluation that was paid for: ledgers, and where they lie."""
