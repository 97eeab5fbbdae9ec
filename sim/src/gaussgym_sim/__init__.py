"""Vectorized physics of legged robots on scene terrain."""
