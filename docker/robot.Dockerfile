# syntax=docker/dockerfile:1.7
# The runtime for a robot's own computer, arm64 or amd64: numpy, onnxruntime and tyro, no torch, no simulator, and Cyclone DDS 0.10.2 as
# Unitree's robots have it (a participant of 11.x can crash them). `make docker-robot` builds it; on the robot:
#   docker run --rm -it --network host --cap-add SYS_NICE -v "$PWD/policy:/policy:ro" gaussgym-robot check /policy
FROM python:3.11-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cyclonedds-dev cyclonedds-tools gcc libc6-dev \
  && rm -rf /var/lib/apt/lists/*
# Python's binding 0.10.2 has no wheel for Python 3.11 and none for arm64; it builds against Debian's library of the same version,
# which it expects in one folder.
RUN mkdir -p /opt/cyclonedds/bin && ln -s /usr/include /opt/cyclonedds/include \
  && ln -s "/usr/lib/$(gcc -print-multiarch)" /opt/cyclonedds/lib && ln -s /usr/bin/idlc /opt/cyclonedds/bin/idlc
RUN pip install --no-cache-dir "setuptools<80" wheel \
  && CYCLONEDDS_HOME=/opt/cyclonedds pip wheel --no-cache-dir --no-build-isolation --no-deps -w /wheels cyclonedds==0.10.2
WORKDIR /source
COPY deploy deploy
RUN python -m venv --without-pip /opt/robot \
  && pip --python /opt/robot/bin/python install --no-cache-dir --no-compile -c deploy/robot-constraints.txt ./deploy /wheels/*.whl
# What only developers use: tests, tools that convert models, onnxruntime's second copy for programs in C.
RUN cd /opt/robot/lib/python3.11/site-packages \
  && find numpy -type d -name tests -prune -exec rm -r {} + \
  && rm -r onnxruntime/transformers onnxruntime/quantization onnxruntime/tools onnxruntime/capi/libonnxruntime.so.*
ENV PYTHONDONTWRITEBYTECODE=1
RUN /opt/robot/bin/python -c "import cyclonedds.domain, numpy, onnxruntime" && /opt/robot/bin/gaussgym-deploy schema > /dev/null

FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends libddsc0debian libcycloneddsidl0 \
  && rm -rf /var/lib/apt/lists/* && useradd --create-home --uid 10001 robot
COPY --from=build /opt/robot /opt/robot
# Byte code is not written, as the user owns none of the code; one thread, as the policy's step is too short for more.
ENV PATH=/opt/robot/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
USER robot
WORKDIR /home/robot
ENTRYPOINT ["gaussgym-deploy"]
CMD ["--help"]
