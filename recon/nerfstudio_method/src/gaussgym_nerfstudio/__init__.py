"""nerfstudio's splatfacto with the rasterizer of `gaussgym_render` where there is no GPU; for nerfstudio's environment."""
