#!/bin/sh
# A client from before servers were asked for their replicas, as far as the tests need it.
#
# former.sh SCRIPT URL NAME look             asks once and gives back at once
# former.sh SCRIPT URL NAME run COMMAND...   runs a command under a permit, and renews that
set -u
script=$1 url=$2 name=$3 what=$4
shift 4
permits=semrun-$name
id=$(cat /proc/sys/kernel/random/uuid)
who='{"label":"former","host":"here","pid":1,"user":"former","detached":false}'
ticket=0 token=0

# Calls the script for an operation: sets status, token and ticket.
call() {
    reply=$(redis-cli --no-auth-warning -u "$url" --eval "$script" \
        "$permits" "{$permits}:queue" "{$permits}:alive" "{$permits}:asks" "{$permits}:grants" \
        "{$permits}:state" "{$permits}:done" , \
        "$1" "$id" 1 5000 "$who" "$ticket" "$token" 5000 15000 '' '' 0)
    { read -r status; read -r number; read -r place; } << END
$reply
END
    case $status in
        held) token=$number ;;
        queued) ticket=$place ;;
        gone) ;;
        *) echo "$1: $reply" >&2; exit 1 ;;
    esac
}

call ask
[ "$what" = run ] || { call release; exit; }
until [ "$status" = held ]; do
    sleep 0.1
    call ask
done
"$@" &
while kill -0 $! 2> /dev/null; do
    call renew
    [ "$status" = held ] || { echo "lost" >&2; kill $!; exit 76; }
    sleep 0.5
done
wait $!
code=$?
call release
exit $code
