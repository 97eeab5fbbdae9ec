"""Splats trained by nerfstudio, which runs as a program in an environment of its own and is never imported here."""
