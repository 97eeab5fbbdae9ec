# Photos or a video in, a policy that sees out. `make help` lists what there is.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.SECONDARY:
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help

PYTHON ?= python3.11
TORCH  ?= cpu
DATA   ?= data
RUNS   ?= runs
TASK   ?= velocity
RUN    ?= dev
SCENES ?= $(notdir $(patsubst %/,%,$(dir $(wildcard $(DATA)/captures/*/capture.json))))
# Demo: a folder of photos or a video; how high its camera was held [m], where photos hold no GPS.
CAPTURE ?=
CAMERA_HEIGHT ?=
DEMO ?= $(RUNS)/demo

bin := .venv/bin
export PATH := $(CURDIR)/$(bin):$(PATH)
# Two torch threads on two cores that MuJoCo and numba use as well are ten times slower than one.
export OMP_NUM_THREADS ?= 1
ready := .venv/.ready

scene_manifests := $(SCENES:%=$(DATA)/scenes/%/scene.json)
checkpoint := $(RUNS)/$(RUN)/checkpoint.json
policy := $(RUNS)/$(RUN)/policy/policy.json

##@ Start here
.PHONY: setup demo test help
setup: $(ready) ## make .venv with the pinned packages (TORCH=cpu|cuda|keep)
demo: $(ready) ## photos -> policy with a report; CAPTURE=<folder|video> CAMERA_HEIGHT=<m> for your own
	gaussgym demo --output $(DEMO) $(if $(CAPTURE),--capture $(CAPTURE)) $(if $(CAMERA_HEIGHT),--camera-height $(CAMERA_HEIGHT))
test: $(ready) ## the fast tests
	$(bin)/python -m pytest -q -m "not slow and not gpu and not network"

$(ready): requirements/setup.sh $(wildcard requirements/*.txt) $(wildcard */pyproject.toml)
	PYTHON=$(PYTHON) TORCH=$(TORCH) requirements/setup.sh

##@ Pipeline (each target is the manifest its stage writes last)
.PHONY: scenes train policy
scenes: $(scene_manifests) ## data/captures/* -> data/scenes/*  [recon]
train: $(checkpoint) ## scenes -> runs/$RUN/checkpoint.json  [sim + render + learn]
policy: $(policy) ## checkpoint -> runs/$RUN/policy/  [learn]

$(DATA)/scenes/%/scene.json: $(DATA)/captures/%/capture.json | $(ready)
	gaussgym-recon build $(<D) --output $(@D) $(if $(CAMERA_HEIGHT),--camera-height $(CAMERA_HEIGHT))

# Order-only: a touched capture must not restart a day of training by itself.
$(RUNS)/%/checkpoint.json: | $(ready) $(scene_manifests)
	gaussgym-learn train $(TASK) $(if $(scene_manifests),--scenes $(dir $(scene_manifests))) --output $(@D)

%/policy/policy.json: %/checkpoint.json
	gaussgym-learn export $(<D) $(if $(scene_manifests),--scenes $(dir $(scene_manifests))) --output $(@D)

##@ Stages
.PHONY: recon sim render learn deploy
recon: scenes ## build the scenes of all captures
sim: $(ready) ## check and time the physics
	gaussgym-sim check
	gaussgym-sim bench
render: $(ready) ## time the renderer
	gaussgym-render bench
learn: policy ## train and export
deploy: $(policy) ## check the bundle
	gaussgym-deploy check $(<D)

##@ Isaac Gym (needs NVIDIA's tarball, an NVIDIA GPU, Python 3.8)
.PHONY: isaacgym docker-isaacgym
ISAACGYM_TARBALL ?=
isaacgym: ## make .isaacgym, the worker's environment; ISAACGYM_TARBALL=<NVIDIA's IsaacGym_Preview_4_Package.tar.gz>
	@docker/isaacgym.sh $(if $(ISAACGYM_TARBALL),"$(ISAACGYM_TARBALL)")
docker-isaacgym: ## the same as an image with the project in it, gaussgym-isaacgym; ISAACGYM_TARBALL=...
	@test -f "$(ISAACGYM_TARBALL)" || { echo "error: no file ISAACGYM_TARBALL=$(ISAACGYM_TARBALL)" >&2; exit 2; }
	docker build -f docker/isaacgym.Dockerfile -t gaussgym-isaacgym --build-context isaacgym="$(dir $(abspath $(ISAACGYM_TARBALL)))" \
	  --build-arg ISAACGYM_NAME="$(notdir $(ISAACGYM_TARBALL))" .

##@ nerfstudio (an environment of its own, 3.5 GB)
.PHONY: setup-nerfstudio test-nerfstudio docker-recon
setup-nerfstudio: ## make .nerfstudio, nerfstudio's own environment (TORCH=cpu|cuda|keep)
	PYTHON=$(PYTHON) TORCH=$(TORCH) requirements/setup-nerfstudio.sh
test-nerfstudio: $(ready) ## train with nerfstudio for real, without a GPU (skips, saying why, without .nerfstudio)
	$(bin)/python -m pytest -q -s -rs -m nerfstudio recon/tests/test_nerfstudio_real.py
docker-recon: ## reconstruction with nerfstudio as an image, gaussgym-recon
	docker build -f docker/recon.Dockerfile -t gaussgym-recon --build-arg TORCH=$(TORCH) .

##@ Robot
.PHONY: docker-robot
PLATFORM ?= linux/arm64
docker-robot: ## the runtime for a robot's own computer as an image, gaussgym-robot; PLATFORM=linux/arm64 | linux/amd64
	docker buildx build --platform $(PLATFORM) -f docker/robot.Dockerfile -t gaussgym-robot --load .

##@ Chores
.PHONY: check test-slow test-learn bench lock clean-runs
check: $(ready) ## lint and types
	ruff check .
	ruff format --check .
	pyright
test-slow: $(ready) ## the slow tests too (real captures where they are present)
	$(bin)/python -m pytest -q -m "not gpu and not network and not nerfstudio"
test-learn: $(ready) ## train what the README claims of learning, with all seeds (hours; resumable), and evaluate it
	python experiments/walking/gates.py --minutes 1.5 --budget 10 --seeds 0 1 2 3 4 --average --json $(RUNS)/test-learn/walking.json
	python experiments/corridor/train.py --runs $(RUNS)/test-learn/corridor --output $(RUNS)/test-learn/corridor.json --checkpoints $(RUNS)/test-learn/checkpoints
	python experiments/semantic/semantic.py --output $(RUNS)/test-learn/semantic
	$(bin)/python -m pytest -q -m slow learn/tests/test_corridor_policies.py
bench: $(ready) ## physics steps/s and rendered frames/s of this machine
	gaussgym-sim bench
	gaussgym-render bench
lock: ## rewrite the pins from requirements/*.in and the current .venv
	requirements/lock.sh
clean-runs: ## remove runs/
	rm -rf $(RUNS)

help: ## show this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
