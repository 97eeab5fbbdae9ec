"""The gap between a robot and its simulation as numbers: a recording is replayed, and what explains the difference is fitted."""
