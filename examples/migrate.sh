#!/bin/sh
# A job that must not run twice at a time: it says what it holds, and works for 20 seconds.
echo "migrating under permit $SEMRUN_PERMIT"
echo "fencing token $SEMRUN_FENCING_TOKEN: storage can refuse a holder with a lower one"
for step in 1 2 3 4; do
    echo "step $step of 4"
    sleep 5
done
echo "migrated"
