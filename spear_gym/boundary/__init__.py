"""What comes from outside and goes there: files, their fields, texts, owners, and a user's code."""
