"""A worker that needs numpy alone, so that it is up at once; its first argument says how it misbehaves."""

import os
import socket
import sys
import time

from gaussgym_sim.engines import bridge_wire as wire


def main(mode, socket_fd, memory_fd):
    channel, arrays = wire.Channel(socket.socket(fileno=socket_fd)), {}
    if mode == "mute":
        time.sleep(60)
    if mode == "exits":
        print("no licence found", file=sys.stderr)
        sys.exit(3)
    if mode == "old":
        wire.VERSION = 0
    if mode == "other layout":
        wire.state_layout = None
        wire.as_layout = lambda rows: [(name, dtype, tuple(shape)) for name, dtype, shape in rows][:-1]

    def start(message):
        arrays.update(wire.map_block(memory_fd, wire.as_layout(message.body["layout"])))
        said = {"link_names": ["leg"], "total_mass_kg": 1.0, "substep_s": 0.005}
        return {**said, "capabilities": ["kp"], "params": ["kp"]}, b""

    def step(message):
        if mode == "raises":
            raise ZeroDivisionError("a defect")
        if mode == "dies":
            os._exit(7)
        arrays["state/joint_pos"][:] += arrays["in/target"] * message.number

    def set_params(message):
        values = arrays["in/param/kp"][: message.number]
        if values.max() > 100:
            raise wire.BadInput("kp 101: expected at most 100")
        arrays["param/kp"][arrays["in/ids"][: message.number]] = values

    wire.serve(channel, {wire.START: start, wire.STEP: step, wire.SET_PARAMS: set_params})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
