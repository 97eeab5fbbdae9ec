"""Physics engines behind `gaussgym_sim.vecsim.VecSim`."""
