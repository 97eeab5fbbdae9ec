"""Settings of every test run."""

import signal

import torch

# A shell that runs the tests in the background makes them, and every process they start, deaf to Ctrl-C; several
# tests send one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Two torch threads on two cores that MuJoCo and numba use as well are ten times slower than one.
torch.set_num_threads(1)
