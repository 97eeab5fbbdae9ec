"""The tasks of this package, one file each; see `gaussgym_sim.task`."""
