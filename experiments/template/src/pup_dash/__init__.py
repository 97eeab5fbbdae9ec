"""A robot, a task with its own reward, and a terrain for GaussGym, from outside of it."""
