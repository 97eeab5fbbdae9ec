"""What robots stand on and run into."""
