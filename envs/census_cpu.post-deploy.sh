#!/usr/bin/env bash
set -euo pipefail
python -m pip install --no-deps torchtext==0.6.0 scgpt==0.2.4
