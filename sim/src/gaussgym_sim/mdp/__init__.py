"""What an episode is made of: starts, commands, rewards, ends, curricula, symmetry."""
