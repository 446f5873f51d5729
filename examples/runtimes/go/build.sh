#!/bin/sh
# build/bootstrap: the function and the runtime client in one static program.
set -eu
cd "$(dirname "$0")"
rm -rf build
CGO_ENABLED=0 go build -trimpath -tags lambda.norpc -ldflags='-s -w' -o build/bootstrap .
