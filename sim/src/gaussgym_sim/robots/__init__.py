"""The robots that ship: one MJCF each, their facts with sources in README.md, and what commands them."""
