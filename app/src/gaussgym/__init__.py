"""The face of GaussGym: the demo that chains every stage, its report, the doctor."""

__version__ = "0.1.0"
