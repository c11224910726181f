#!/bin/sh
# A job that writes an object to S3, where it is refused once a later holder has been there:
#   semrun --name report -- examples/fenced-object.sh BUCKET TEXT
set -eu
token=${SEMRUN_FENCING_TOKEN:?run this under semrun}
bucket=$1 text=$2
dir=$(mktemp -d)
trap 'rm -r "$dir"' EXIT

s3() { aws s3api "$@" --bucket "$bucket" --key report 2> "$dir/error"; }
failed() { cat "$dir/error" >&2; exit 1; }

# The first line of the object is the token of who wrote it, so that its ETag differs for each holder.
fenced() {
    while :; do
        if etag=$(s3 get-object --query ETag --output text "$dir/now"); then
            if [ "$(head -n 1 "$dir/now")" -gt "$token" ]; then
                echo "$text: refused, token $token is not the latest" >&2
                exit 1
            fi
            set -- "$1" --if-match "$etag"
        elif grep -q NoSuchKey "$dir/error"; then
            : > "$dir/now"
            set -- "$1" --if-none-match '*'
        else
            failed
        fi
        { echo "$token"; "$1"; } > "$dir/next"
        if s3 put-object --body "$dir/next" "$2" "$3" > "$dir/answer"; then return; fi
        # Somebody was faster, or our own answer was lost: look again.
        grep -qE 'PreconditionFailed|ConditionalRequestConflict|NoSuchKey' "$dir/error" || failed
    done
}
same() { tail -n +2 "$dir/now"; }
new() { echo "$text"; }

fenced same # before anything is read: from here on, those before us are refused
echo "$text: begins with token $token"
sleep 2 # the work
fenced new
echo "$text: written"
