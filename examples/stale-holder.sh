#!/bin/sh
# Freezes a whole client in the middle of a job until another one has its permit, and lets it go on:
#   examples/stale-holder.sh examples/fenced-sql.sh FILE
# COMMAND… gets one word more, "first" or "second". semrun and redis-server have to be on the PATH.
set -eu
dir=$(mktemp -d)
redis-server --port 0 --unixsocket "$dir/redis" --save '' > "$dir/redis.log" &
redis=$!
touch "$dir/frozen"
# What is frozen cannot end by itself.
trap 'xargs -r kill -KILL < "$dir/frozen" 2> "$dir/gone" || true; kill "$redis"; wait; rm -r "$dir"' EXIT

run() {
    semrun --backend "redis+unix://$dir/redis" --quarantine 0 --name report --ttl 5s -- "$@" 2>&1
}
tree() { # a process and everything below it, parents first; stopped on the way if it is told so
    if [ "$1" = freeze ]; then kill -STOP "$2"; fi
    echo "$2"
    for child in $(pgrep -P "$2"); do tree "$1" "$child"; done
}
until_it_says() { until grep -q "$1" "$dir/first"; do kill -0 "$shell"; sleep 0.1; done; }

until [ -S "$dir/redis" ]; do kill -0 "$redis"; sleep 0.1; done
run "$@" first > "$dir/first" &
shell=$!
until_it_says begins
guardian=$(pgrep -P "$shell")
worker=$(pgrep -P "$guardian")
tree freeze "$guardian" > "$dir/frozen"
cat "$dir/first"
echo '-- frozen: both processes of semrun and the job'

run "$@" second

echo '-- thawed: the job, and when it has ended semrun'
job=$(pgrep -P "$worker")
# shellcheck disable=SC2046 # a list of numbers is meant
kill -CONT $(tree list "$job")
until_it_says 'first: [rw]'
kill -CONT "$worker" "$guardian" # in this order: the guardian ends the worker
code=0
wait "$shell" || code=$?
: > "$dir/frozen"
tail -n +2 "$dir/first"
echo "-- semrun ended with $code"
