#!/bin/sh
# build/: index.mjs and the runtime client. npm compiles the client: cmake, make, a C++ compiler, xz, Python.
set -eu
cd "$(dirname "$0")"
rm -rf build
mkdir build
cp index.mjs package.json build
cd build
# Headers beside node itself need not be downloaded.
prefix=$(node -p 'require("path").resolve(process.execPath, "../..")')
[ ! -d "$prefix/include/node" ] || export npm_config_nodedir="$prefix"
npm install --no-package-lock --no-audit --no-fund --loglevel=error
# What the client was compiled with is no part of what runs.
find node_modules -mindepth 1 -maxdepth 1 ! -name aws-lambda-ric ! -name @aws -exec rm -r {} +
rm -r node_modules/aws-lambda-ric/deps
