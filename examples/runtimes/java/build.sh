#!/bin/sh
# build/: the classes, and in build/lib their libraries, the runtime client among them.
set -eu
cd "$(dirname "$0")"
rm -rf build target
mvn -q -B compile dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=build/lib
