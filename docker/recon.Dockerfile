# syntax=docker/dockerfile:1.7
# Reconstruction with nerfstudio: the project in .venv and, beside it, nerfstudio 1.1.5 in .nerfstudio, whose pins fight everybody else's.
#   docker build -f docker/recon.Dockerfile -t gaussgym-recon .
#   docker run --rm -v "$PWD/data:/data" gaussgym-recon build /data/captures/street --output /data/scenes/street --trainer nerfstudio
# TORCH=cuda: gsplat compiles its CUDA kernels when they are first used and wants nvcc of torch's CUDA release; BASE is then an image with
# that and Python 3.11.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
ARG TORCH=cpu
RUN apt-get update && apt-get install -y --no-install-recommends \
  g++ make git ffmpeg libusb-1.0-0 libgl1 libgomp1 libegl1 libx11-6 libglib2.0-0 \
  && rm -rf /var/lib/apt/lists/*
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility PIP_NO_CACHE_DIR=1 OMP_NUM_THREADS=1
# Where pip finds PyTorch's CPU build, which is not on the default index.
ARG PIP_EXTRA_INDEX_URL
WORKDIR /gaussgym
# The pins first: a change of the sources does not install 3.5 GB again.
COPY requirements requirements
RUN python3.11 -m venv .nerfstudio \
  && .nerfstudio/bin/python -m pip install --require-hashes --no-deps -r requirements/torch-${TORCH}.txt \
  && .nerfstudio/bin/python -m pip install --require-hashes --no-deps -r requirements/nerfstudio.txt
COPY . .
RUN PYTHON=python3.11 TORCH=keep requirements/setup-nerfstudio.sh
RUN make setup PYTHON=python3.11 TORCH=${TORCH}
ENV GAUSSGYM_NERFSTUDIO_PYTHON=/gaussgym/.nerfstudio/bin/python PATH=/gaussgym/.venv/bin:$PATH
ENTRYPOINT ["gaussgym-recon"]
CMD ["--help"]
