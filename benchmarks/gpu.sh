#!/usr/bin/env bash
# Makes an environment in which JAX sees the GPU, unless there is one, and runs all measurements: benchmarks/gpu.py.
# An environment with JAX, the GPU and all packages is used as it is. Otherwise .venv-gpu is made: with the JAX that is
# installed if it sees the GPU, with jax[cuda12] if not. PYTHON=python3.12 selects the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"

sees_gpu() {  # whether an interpreter has JAX and a GPU
  "$1" -c 'import jax, sys; sys.exit(jax.devices()[0].platform != "gpu")' 2>/dev/null
}

has_packages() {  # whether it also has everything that the measurements import
  "$1" -c 'import click, flax, hypothesis, optax, orbax.checkpoint, PIL, pytest, rich, scipy, yaml' 2>/dev/null
}

if ! { sees_gpu "$python" && has_packages "$python"; }; then
  if sees_gpu "$python"; then
    "$python" -m venv --system-site-packages .venv-gpu
    package=.
  else
    "$python" -m venv .venv-gpu
    package='.[cuda12]'
  fi
  python=.venv-gpu/bin/python
  "$python" -m pip install --quiet "$package" hypothesis pytest
fi
exec "$python" benchmarks/gpu.py "$@"
