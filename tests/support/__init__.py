"""What many tests and commands need, once. Nothing in here is a test."""
