"""What follows from what was seen: pure functions, a small module for each theme."""
