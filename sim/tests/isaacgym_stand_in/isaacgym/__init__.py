"""Stand-in for NVIDIA's package, see README.md in the folder above."""

import os
import sys

if "torch" in sys.modules and not os.environ.get("ISAACGYM_STAND_IN_AFTER_TORCH"):
    raise ImportError("PyTorch was imported before isaacgym modules")
