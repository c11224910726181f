#!/bin/sh
# A job that must not run twice at a time: it says what it holds, and works for three seconds.
echo "migrating under permit $SEMRUN_PERMIT"
echo "fencing token $SEMRUN_FENCING_TOKEN: storage can refuse whoever comes with a lower one"
for step in 1 2 3; do
    echo "step $step of 3"
    sleep 1
done
echo "migrated"
