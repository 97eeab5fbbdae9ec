"""How targets become torques."""
