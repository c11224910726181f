//! The table of docs/backends.md, row by row: what `mallory`, who may write a shared directory, can
//! do to the others, and what not.

use super::shared::shows_as_users;
use super::support::World;

/// `held NAME`: alice holds it until `free`.
const HOLDER: &str = r#"
    mkdir -m 1777 shared; mkdir -m 777 notes
    export SEMRUN_CONFIG=/dev/null SEMRUN_BACKEND=file://$PWD/shared
    held() {
        rm -f notes/*
        $alice $semrun -q --name $1 -- timeout 60 sh -c \
            'echo > notes/held; while [ ! -e notes/go ]; do sleep 0.02; done; echo alice has ended' &
        holder=$!
        while [ ! -e notes/held ]; do nap; done
    }
    free() { touch notes/go; wait $holder || echo alice $?; }
    used() { $alice $semrun --name $1 -- true; }
    boot=$(cat /proc/sys/kernel/random/boot_id)
    # A record of a permit: its number, and when it ends in microseconds.
    record() { $mallory sh -c "printf '%s h %020d %s %020d\n' $boot 60000000 $2 0 > shared/x/k.$1"; }
"#;

#[track_caller]
fn shows(script: &str, stdout: &str) {
    let world = World::on_this_machine();
    shows_as_users(&world, &format!("{HOLDER}{script}"), stdout);
}

#[test]
fn who_removes_the_file_of_a_permit_runs_beside_its_holder() {
    let script = "held x
        $mallory $semrun --name x -n -- echo no || echo busy $?
        $mallory rm shared/x/s.*
        $mallory $semrun --name x -n -- echo beside
        free";
    shows(script, "busy 75\nbeside\nalice has ended\n");
}

#[test]
fn who_takes_a_permit_away_has_its_command_stopped() {
    let script = r#"held x
        permit=$($mallory $semrun status --json x | sed -n 's/.*"permit": "\(.*\)".*/\1/p')
        $mallory $semrun release --force --now --permit $permit > /dev/null 2>&1; wait $holder || echo alice $?
        held x
        $mallory sh -c 'for file in shared/x/s.*[0-9]; do printf xx > $file; done'
        wait $holder || echo alice $?"#;
    shows(script, "alice 76\nalice 76\n");
}

#[test]
fn a_record_without_a_process_takes_a_permit_but_not_for_centuries() {
    let script = "used x
        record 00000000000000000001 00003000000000000000
        $alice $semrun --name x -n -- echo no || echo busy $?
        $alice rm shared/x/k.*1; $alice $semrun --name x -n -- echo free
        record 00000000000000000002 18446744073709551615
        $alice $semrun --name x -n -- echo free
        ls shared/x";
    shows(script, "busy 75\nfree\nfree\nmutex\n");
}

#[test]
fn who_makes_the_directory_of_a_name_or_locks_its_mutex_keeps_the_others_out() {
    let script = "$mallory mkdir -m 700 shared/x
        $alice $semrun --name x -- echo no 2> said || echo $?
        grep -c 'make it writable' said
        used y
        $mallory flock -F shared/y/mutex sh -c 'echo > notes/locked; exec sleep 60' & locker=$!
        while [ ! -e notes/locked ]; do nap; done
        $alice $semrun --name y -n -- echo no 2> said || echo $?
        grep -c 'process [0-9]* keeps the files locked' said
        kill $locker; wait $locker || true
        $alice $semrun --name y -n -- echo free";
    shows(script, "69\n1\n69\n1\nfree\n");
}

#[test]
fn who_writes_the_mutex_changes_the_limit_but_not_that_numbers_grow() {
    let script = r#"held x
        $mallory $semrun limit x 2 > /dev/null
        $mallory $semrun --name x -n -- echo beside
        free
        token() { $alice $semrun --name y -- sh -c 'echo $SEMRUN_FENCING_TOKEN'; }
        before=$(token)
        $mallory sh -c "printf '18446744073709551615 0000000001 0000000000\n' > shared/y/mutex"
        one=$(token); other=$(token)
        [ $before -lt $one ] && [ $one -lt $other ] && echo grow"#;
    shows(script, "beside\nalice has ended\ngrow\n");
}

#[test]
fn who_removes_the_file_of_a_waiter_sends_it_to_the_end_of_the_queue() {
    let script = "held x
        waiting() { $semrun status --json x | grep -c place || true; }
        $alice $semrun -q --name x -- echo first in line & one=$!
        while [ $(waiting) != 1 ]; do nap; done
        first=$(ls shared/x/q.*[0-9])
        $mallory $semrun -q --name x -- echo last in line & other=$!
        while [ $(waiting) != 2 ]; do nap; done
        $mallory rm $first $first.json
        free; wait $one; wait $other";
    shows(script, "alice has ended\nlast in line\nfirst in line\n");
}

/// What is there in the place of our files is neither followed nor written to, and nothing hangs.
#[test]
fn nothing_outside_changes_and_no_client_waits_for_what_is_no_file_of_ours() {
    let script = "
        number=0000000000000000000
        put() { # HOW NAME
            used $2
            for file in k.${number}3 q.${number}4 s.${number}5 p.${number}6; do
                case $1 in
                    link) $mallory ln -s $PWD/victim shared/$2/$file ;;
                    hard) $mallory ln victim shared/$2/$file ;;
                    fifo) $mallory mkfifo -m 666 shared/$2/$file ;;
                    directory) $mallory mkdir -m 777 shared/$2/$file ;;
                esac
            done
            timeout 20 $alice $semrun --name $2 -n -- echo $1 is no obstacle
        }
        echo precious > victim; chown 61003 victim; chmod 666 victim
        put link a; put hard b; put fifo c; put directory d
        used e; $mallory ln -s $PWD/victim shared/e/mutex2; $mallory ln -sf $PWD/victim shared/e/mutex
        $alice $semrun --name e -n -- echo no 2> /dev/null || echo mutex $?
        used f; $mallory sh -c 'rm shared/f/mutex; ln victim shared/f/mutex'
        $alice $semrun --name f -n -- echo no 2> /dev/null || echo mutex $?
        used g; $mallory mkfifo -m 666 shared/g/done
        timeout 20 $alice $semrun --name g -n -- echo fifo is no obstacle
        $mallory rm -r shared/g 2> /dev/null || echo the directory of a name stays
        cat victim";
    shows(
        script,
        "link is no obstacle\nhard is no obstacle\nfifo is no obstacle\ndirectory is no obstacle\n\
         mutex 69\nmutex 69\nfifo is no obstacle\nthe directory of a name stays\nprecious\n",
    );
}

#[test]
fn who_may_write_what_the_directory_lies_in_moves_it_away_from_its_holders() {
    let script = "mkdir -m 777 open; mv shared open; chown 61001 open/shared; chmod 700 open/shared
        export SEMRUN_BACKEND=file://$PWD/open/shared
        held x
        $mallory mv open/shared open/elsewhere
        $alice $semrun --name x -n -- echo beside
        free";
    shows(script, "beside\nalice has ended\n");
}
