#!/usr/bin/env bash
# The sweep over numbers of nodes that scaling.sbatch (Slurm) and scaling.yaml (Kubernetes) run, and its one JSON:
# collective calls, weak and strong scaling of training, one rank alone, and what is predicted from that.
#
#   scaling.sh LAUNCHER NODES RANKS_PER_NODE OUT.json CONFIG [--set SECTION.KEY=VALUE]...
#
# LAUNCHER: srun or mpirun, inside an allocation of that many nodes. OUT.json is on storage that all nodes see. Environment:
#   LOCKSTEP  the program (lockstep)
#   ROUNDS    times that all numbers of nodes take their turn (3)
#   WINDOWS   undisturbed windows wanted of each run (20)
#   LARGEST   message of the collective calls (256M)
#   PREDICT   further options of `lockstep bench scaling --predict`, such as "--overlap 0 --mtbf 20000"
# A part that fails is named in the JSON with its exit code, and the others go on; then the exit code is 1.
set -u

[ $# -ge 5 ] || {
    echo "usage: ${0##*/} srun|mpirun NODES RANKS_PER_NODE OUT.json CONFIG [--set SECTION.KEY=VALUE]..." >&2
    exit 2
}
launcher=$1 nodes=$2 each=$3 out=$4 config=$5
shift 5
settings=("$@")
lockstep=${LOCKSTEP:-lockstep}
rounds=${ROUNDS:-3} windows=${WINDOWS:-20} largest=${LARGEST:-256M}
read -ra more <<<"${PREDICT-}"

work=$(mktemp -d "$(dirname "$out")/scaling.XXXXXX") || exit 74
trap 'rm -rf "$work"' EXIT
say() { printf '%s scaling: %s\n' "$(date +%FT%T)" "$*" >&2; }

# starter NAME EACH: a program $work/NAME that starts so many ranks, EACH of them on a node; launchers left to themselves
# spread them over all nodes.
starter()
{
    local start
    # shellcheck disable=SC2016 # the program expands it
    case $launcher in
    srun) start='exec srun --mpi=pmix --kill-on-bad-exit=1 --nodes=$(((n + each - 1) / each)) --ntasks="$n" "$@"' ;;
    mpirun) start='exec mpirun -np "$n" --map-by "ppr:$each:node" --bind-to none "$@"' ;;
    *)
        echo "scaling.sh: launcher $launcher: expected srun or mpirun" >&2
        exit 2
        ;;
    esac
    # shellcheck disable=SC2016
    printf '#!/bin/sh\nn=$1 each=%d\nshift\n%s\n' "$2" "$start" >"$work/$1"
    chmod +x "$work/$1"
}
starter ranks "$each"
starter spread 1

# part NAME COMMAND...: a part of the sweep, whose report the command writes to the file of that name.
parts=() failures=()
part()
{
    local name=$1 code
    shift
    say "$name: $*"
    if "$@" --json "$work/$name.json" >&2; then
        parts+=("$name")
        return
    else
        code=$?
    fi
    say "$name ended with exit code $code"
    failures+=("{\"part\": \"$name\", \"exit_code\": $code}")
}

# Node counts: 1, 2, 4, ... and as many ranks as they have.
counts='' ranks=''
for ((n = 1; n <= nodes; n *= 2)); do
    counts+=${counts:+,}$n ranks+=${ranks:+,}$((n * each))
done

# One rank alone, on the work of one lane: what predictions start from.
measured=()
part step-1 "$work/ranks" 1 "$lockstep" bench step -c "$config" --folder "$work" -n "$windows" "${settings[@]}"
[ ! -e "$work/step-1.json" ] || measured+=(--measured "$work/step-1.json")

# call STARTER NAME RANKS PART: a collective call.
call()
{
    part "$4" "$work/$1" "$3" "$lockstep" bench "$2" -b 16K -e "$largest" -f 4
}
for ((n = 1; n <= nodes; n *= 2)); do
    for name in allreduce reduce_scatter all_gather; do
        [ $((n * each)) -eq 1 ] || call ranks $name $((n * each)) "$name-$((n * each))"
    done
done
# The link inside a node, and the one between two nodes.
for name in reduce_scatter all_gather; do
    [ "$nodes" -eq 1 ] || call spread $name 2 "$name-between"
    for report in "$name-$each" "$name-between"; do
        if [ -e "$work/$report.json" ] && { [ "$each" -gt 1 ] || [ "$report" = "$name-between" ]; }; then
            measured+=(--measured "$work/$report.json")
        fi
    done
done

# Training.
for kind in weak strong; do
    part "$kind" "$lockstep" bench scaling -c "$config" --kind $kind --ranks "$ranks" --launcher "$work/ranks {ranks}" \
        --folder "$work" --rounds "$rounds" -n "$windows" "${settings[@]}"
done

# What is predicted of the same nodes, to be put beside it.
predict()
{
    part "predicted-$1" "$lockstep" bench scaling --predict -c "$config" "${settings[@]}" "${measured[@]}" --nodes "$counts" \
        --ranks-per-node "$each" "${more[@]}" "${@:2}"
}
if [ ${#measured[@]} -gt 0 ]; then
    predict weak
    predict strong --strong
fi

# The one JSON.
{
    printf '{\n"benchmark": "sweep",\n"time": "%s",\n"launcher": "%s",\n"nodes": %d,\n"ranks_per_node": %d,\n"job": "%s",\n' \
        "$(date -u +%FT%TZ)" "$launcher" "$nodes" "$each" "${SLURM_JOB_ID:-${HOSTNAME:-}}"
    printf '"failures": ['
    separator=''
    for failure in "${failures[@]}"; do
        printf '%s%s' "$separator" "$failure"
        separator=', '
    done
    printf '],\n"reports": {'
    separator=''
    for name in "${parts[@]}"; do
        printf '%s\n"%s": ' "$separator" "$name"
        cat "$work/$name.json"
        separator=','
    done
    printf '}\n}\n'
} >"$work/all.json" && mv "$work/all.json" "$out" || exit 74
say "${#parts[@]} parts in $out, ${#failures[@]} failed"
[ ${#failures[@]} -eq 0 ]
