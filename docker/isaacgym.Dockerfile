# syntax=docker/dockerfile:1.7
# The project and, beside it, Isaac Gym's own environment (Python 3.8). `make docker-isaacgym ISAACGYM_TARBALL=...` builds it; the
# tarball is yours and is mounted while the image is built. Its licence allows no redistribution: keep the image to yourself.
FROM python:3.8-slim-bullseye AS python38

FROM python:3.11-slim-bullseye
# g++: gymtorch is compiled when it is first imported. The rest is what `requirements/setup.sh` asks for.
RUN apt-get update && apt-get install -y --no-install-recommends g++ make git libusb-1.0-0 libgl1 libgomp1 libegl1 ffmpeg \
  && rm -rf /var/lib/apt/lists/*
COPY --from=python38 /usr/local /opt/python3.8
RUN echo /opt/python3.8/lib > /etc/ld.so.conf.d/python3.8.conf && ldconfig
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

WORKDIR /gaussgym
COPY docker/isaacgym.sh docker/
ARG ISAACGYM_NAME
RUN --mount=type=bind,from=isaacgym,target=/isaacgym \
  ISAACGYM_PYTHON=/opt/python3.8/bin/python3.8 ISAACGYM_CHECK=0 docker/isaacgym.sh "/isaacgym/$ISAACGYM_NAME" .isaacgym
COPY . .
RUN make setup PYTHON=python3.11 TORCH=cuda
ENV GAUSSGYM_ISAACGYM_PYTHON=/gaussgym/.isaacgym/bin/python PATH=/gaussgym/.venv/bin:$PATH
CMD ["gaussgym-sim", "check", "--backend", "isaacgym", "--device", "cuda"]
