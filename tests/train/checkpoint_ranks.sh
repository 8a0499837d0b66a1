#!/bin/sh
# A checkpoint saved by some ranks is the same for any other number of ranks, and a failure of one rank is a
# failure of all that leaves nothing.   checkpoint_ranks.sh PROGRAM MPIEXEC
set -eu
program=$1
mpiexec=$2
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

ranks() {
    number=$1
    shift
    "$mpiexec" -n "$number" "$program" "$@"
}

die() {
    echo "$*" >&2
    exit 1
}

expected=$(ranks 3 save "$directory/run" 10)
[ ${#expected} -eq 64 ] || die "no hash but: $expected"
for number in 1 2 3 5; do
    hashes=$(ranks $number load "$directory/run" 10 | sort -u)
    [ "$hashes" = "$expected" ] || die "saved by 3 ranks: $expected, loaded and saved by $number: $hashes"
done

# The file is the same, too, whoever wrote it.
"$program" save "$directory/alone" 10 >/dev/null
cmp "$directory/run/checkpoints/step-00000010/state.h5" "$directory/alone/checkpoints/step-00000010/state.h5" ||
    die "the files of 5 ranks and of 1 differ"

ranks 3 fail "$directory/failing" 10 0 begin
ranks 3 fail "$directory/failing" 10 1 write
ranks 3 fail "$directory/failing" 10 0 commit

# One byte of one block: every rank hears of it, whichever has to read it.
offset=$(python3 - "$directory/run/checkpoints/step-00000010/manifest.json" <<'PY'
import json, sys
tensors = json.load(open(sys.argv[1]))["tensors"]
print(next(t["offset"] for t in tensors if t["group"] == "optimizer/moment1" and t["name"] == "layers.0.weight"))
PY
)
file=$directory/run/checkpoints/step-00000010/state.h5
at=$((offset + 7 * 4096 * 4 + 5))
byte=$(od -An -tu1 -j $at -N 1 "$file" | tr -d ' ')
printf "\\$(printf %o $((byte ^ 1)))" | dd of="$file" bs=1 seek=$at conv=notrunc status=none
ranks 3 damaged "$directory/run" 10
