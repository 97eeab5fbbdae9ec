"""Robots from files: a user's URDF or MJCF in, `robot.json` out."""
