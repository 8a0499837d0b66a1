#!/bin/sh
# On a disk that is really full a save fails on all ranks and leaves nothing.   checkpoint_full_disk.sh PROGRAM
set -eu
directory=$(mktemp -d)
trap 'umount "$directory" 2>/dev/null || true; rmdir "$directory"' EXIT
if ! mount -t tmpfs -o size=900k lockstep-test "$directory" 2>/dev/null; then
    echo "skipped: cannot mount a small tmpfs here (needs root)"
    exit 77
fi
"$1" fail "$directory/run" 10 0 none
