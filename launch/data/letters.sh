#!/usr/bin/env bash
# Letter recognition (Frey and Slate, 1991; UCI): 20,000 × 16 numbers, 26 classes, from Debian's package opencv-doc
# into data/letters.h5. What has been fetched and imported before is skipped.
set -euo pipefail
# shellcheck source=launch/data/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

inside=usr/share/doc/opencv-doc/examples/data/letter-recognition.data

if [ ! -f "$sources/letters.csv" ]; then
    if [ -f "/$inside" ]; then
        keep "/$inside" letters.csv 20000
    else
        work=$(mktemp -d)
        trap 'rm -rf "$work"' EXIT
        unpack opencv-doc "$work"
        [ -f "$work/$inside" ] || unavailable "the package opencv-doc of this system has no $inside"
        keep "$work/$inside" letters.csv 20000
    fi
fi
import letters letters.csv --no-header --label 0 --validation 0.1 --test 0.15
