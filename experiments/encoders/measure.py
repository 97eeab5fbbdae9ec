"""Image encoders side by side: parameters, time and memory a frame, on one core.

    python experiments/encoders/measure.py --output experiments/results/cpu-2core/encoders.json

Random weights, RGB of 84x48 px, features of 64. Times are the thread's own CPU time, the least of several rounds; encoders take turns
within a round, so that whatever else the machine does hits all of them. `act` is one frame, `batch` and `learn` (forward and
backward) are per frame of a batch. Memory is what the forward pass keeps for the backward pass, per frame.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gaussgym_learn.encoders import ENCODERS, build_encoder
from torch import nn

WIDTH, HEIGHT, FEATURES, BATCH, ROUNDS = 84, 48, 64, 32, 5


def thread_ms(call: Callable[[], object]) -> float:
    """CPU time of this thread in a call [ms]."""
    start = time.thread_time()
    call()
    return 1e3 * (time.thread_time() - start)


def kept_bytes(encoder: nn.Module, images: torch.Tensor) -> int:
    """Bytes of the distinct tensors, parameters apart, that a forward pass keeps for the backward pass."""
    own = {p.data_ptr() for p in encoder.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = encoder(images)
    del out
    return sum(kept.values())


def learn(encoder: nn.Module, images: torch.Tensor) -> None:
    """Forward and backward pass."""
    encoder.zero_grad(set_to_none=True)
    encoder(images).square().mean().backward()


@torch.no_grad()
def encode(encoder: nn.Module, images: torch.Tensor) -> None:
    """Forward pass alone."""
    encoder(images)


def measure() -> dict[str, dict[str, Any]]:
    """Figures of every built-in encoder, frozen ones apart."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (BATCH, 3, HEIGHT, WIDTH), dtype=torch.uint8)
    encoders = {name: build_encoder(name, (3, HEIGHT, WIDTH), FEATURES) for name in ENCODERS.names()}
    for name in ("resnet18", "dinov2_vits14"):
        encoders[f"{name}, frozen"] = build_encoder(name, (3, HEIGHT, WIDTH), FEATURES, freeze=True)
    table: dict[str, dict[str, Any]] = {
        name: {
            "parameters": sum(p.numel() for p in encoder.parameters()),
            "trained_parameters": sum(p.numel() for p in encoder.parameters() if p.requires_grad),
            "kept_kb_per_frame": kept_bytes(encoder, images) / BATCH / 1e3,
        }
        for name, encoder in encoders.items()
    }
    for _ in range(ROUNDS):
        for name, encoder in encoders.items():
            row = table[name]
            for key, call, frames in (
                ("act_ms", lambda e=encoder: encode(e, images[:1]), 1),
                ("batch_ms_per_frame", lambda e=encoder: encode(e, images), BATCH),
                ("learn_ms_per_frame", lambda e=encoder: learn(e, images), BATCH),
            ):
                row[key] = min(row.get(key, float("inf")), thread_ms(call) / frames)
    base = table["small_cnn"]
    for row in table.values():
        for key in ("act_ms", "batch_ms_per_frame", "learn_ms_per_frame"):
            row[key.replace("_ms", "") + "_ratio"] = row[key] / base[key]
    return table


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = measure()
    report = {
        "command": "python experiments/encoders/measure.py",
        "machine": "2 cores, no GPU",
        "torch": torch.__version__,
        "image": [3, HEIGHT, WIDTH],
        "batch": BATCH,
        "encoders": table,
    }
    print(json.dumps(report, indent=2))
    if args.output is not None:
        args.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
