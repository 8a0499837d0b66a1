#!/bin/sh
# Run every minute: brings back workers that Kubernetes has terminated. resubmit.sh JOB
#
# A worker that is deleted comes back by itself. One that has failed stays as it is: the node has run out of memory or
# disk (reason Evicted, which also makes the operator call the whole job failed), or the node has been shut down
# (reason Terminated). An evicted worker's job is submitted anew, from what was applied at first; the run goes on from
# its newest checkpoint. Other failed workers are deleted, so that the operator makes them again.
set -eu
job=$1
applied=${TMPDIR:-/tmp}/job.json
kept=$job-resubmitted # a ConfigMap: between deleting and creating, the job is nowhere else

# condition TYPE: the reason, if the job's condition of that type is true.
condition()
{
    kubectl get mpijob "$job" \
        -o "jsonpath={range .status.conditions[?(@.type=='$1')]}{.status} {.reason}{end}" | sed -n 's/^True //p'
}

# Keeps what was applied.
keep()
{
    kubectl get mpijob "$job" \
        -o 'jsonpath={.metadata.annotations.kubectl\.kubernetes\.io/last-applied-configuration}' >"$applied"
    if [ ! -s "$applied" ]; then
        echo "resubmit: $job was not created by kubectl apply, so what to submit is not known" >&2
        exit 1
    fi
    kubectl create configmap "$kept" --from-file=job.json="$applied"
}

# Deletes the job, which stops its ranks with a checkpoint, and creates it from what is kept. Whoever is interrupted
# here is followed by one who begins here again.
submit_anew()
{
    # In the foreground: the old launcher and workers have ended before new ones start.
    kubectl delete mpijob "$job" --ignore-not-found --cascade=foreground --wait --timeout=10m
    kubectl apply -f "$applied"
    kubectl delete configmap "$kept"
}

kubectl get configmap "$kept" --ignore-not-found -o 'jsonpath={.data.job\.json}' >"$applied"
if [ -s "$applied" ]; then
    submit_anew
    exit
fi
[ -z "$(condition Succeeded)" ] || exit 0
case $(condition Failed) in
'') kubectl delete pods --field-selector=status.phase=Failed \
    -l "training.kubeflow.org/job-name=$job,training.kubeflow.org/job-role=worker" ;;
MPIJobEvicted) keep && submit_anew ;;
*) echo "resubmit: $job has failed for good; see the launcher's log" ;;
esac
