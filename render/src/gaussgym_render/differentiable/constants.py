"""What forward and backward pass have in common, and the sizes of what lies between them."""

TILE = 16
EPS2D_PX2 = 0.3
ALPHA_MIN = 1.0 / 255.0
ALPHA_MAX = 0.999
TRANSMITTANCE_STOP = 1e-4
COMPENSATION_MIN = 0.005
FILL_BANDS = 8  # bands of tile rows that are filled side by side; each reads all visible splats
CHUNK = 1024  # splats whose camera gradients are summed together before the fixed-order total
RECORD = 16  # floats a visible splat holds for blending: mx my A B C op r g b z y0 y1 limit
PARTIAL = 10  # floats a (tile, splat) pair holds for the backward pass: S0 Sx Sy Sxx Sxy Syy r g b z
