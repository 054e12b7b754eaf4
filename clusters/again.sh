#!/usr/bin/env bash
# Runs a command of ugaf, and the same again while it ends with 75: it was stopped, and goes on where it was.
#
#   bash clusters/again.sh python -m ugaf.run demo --input s3://bucket/photographs --output s3://bucket/runs/demo
#
# TRIES (10): times in all. WAIT_S (60): seconds between two. Any other exit status is handed on at once. SIGTERM ends
# the command, and this with it.
#
# With --rayjob as the first argument, in a job of Ray: KubeRay tries a job that failed once more on a new cluster,
# whatever it failed with, and for 2, 3 and 4 (docs/operations.md) that would do nothing but cost. So this job is then
# stopped, not failed: `kubectl get rayjob` says STOPPED, and the log says why.
set -u

rayjob=
if [ "${1:-}" = --rayjob ]; then
    rayjob=yes
    shift
fi

child= told=
end() {
    told=yes
    [ -n "$child" ] && kill -TERM "$child" 2>/dev/null
}
trap end TERM INT

try=0
while :; do
    [ -n "$told" ] && exit 75
    try=$((try + 1))
    "$@" &
    child=$!
    wait "$child"
    status=$?
    # A signal ends `wait` and not the command.
    while kill -0 "$child" 2>/dev/null; do
        wait "$child"
        status=$?
    done
    child=
    [ "$status" = 75 ] && [ -z "$told" ] && [ "$try" -lt "${TRIES:-10}" ] || break
    echo "again.sh: ended with 75 (try $try of ${TRIES:-10}); the same command goes on in ${WAIT_S:-60} s" >&2
    sleep "${WAIT_S:-60}" &
    child=$!
    wait "$child"
    child=
done

case "$rayjob$status" in
yes2 | yes3 | yes4)
    echo "again.sh: exit status $status, which another try does not change: this job is stopped, not tried again" >&2
    job=$(python -c 'import json, os
print(json.loads(os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"])["metadata"]["job_submission_id"])')
    ray job stop --no-wait --address "${RAY_DASHBOARD:-http://127.0.0.1:8265}" "$job" >&2 && sleep 120
    ;;
esac
exit "$status"
