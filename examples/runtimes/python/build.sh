#!/bin/sh
# build/: main.py and the runtime client, for the Python that PYTHON names.
set -eu
cd "$(dirname "$0")"
rm -rf build
"${PYTHON:-python3}" -m pip install --quiet --disable-pip-version-check --target build -r requirements.txt
cp main.py build
