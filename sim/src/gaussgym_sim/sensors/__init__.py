"""What a robot senses, and what is wrong with it."""
