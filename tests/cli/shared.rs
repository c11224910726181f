use super::support::World;

/// Shell functions for tests with several users: `alice` and `bob` share a group, `mallory` has
/// none of it. None of these numbers is in the user database.
pub(crate) const USERS: &str = "
    chmod 755 .; cp $semrun semrun; semrun=$PWD/semrun
    user() { echo setpriv --reuid=$1 --regid=$1 $2 --; }
    alice=$(user 61001 --groups=61000)
    bob=$(user 61002 --groups=61000)
    mallory=$(user 61003 --clear-groups)
    # No loop here is endless.
    nap() { sleep 0.02; naps=$((naps + 1)); [ $naps -lt 1000 ]; }
";

#[track_caller]
pub(crate) fn shows_as_users(world: &World, script: &str, stdout: &str) {
    let output = world.with_mounts(&format!("{USERS}{script}"));
    let found = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(found, stdout, "{stderr}");
    assert!(output.status.success(), "{stderr}");
}

/// Two users take turns, one is killed, and the other cleans up after it.
const SHARE: &str = "
    export SEMRUN_BACKEND=file://$PWD/shared
    mkdir -m 777 notes
    umask 077
    $alice $semrun --name x -- sh -c 'echo > notes/held; while [ ! -e notes/go ]; do sleep 0.02; done; echo alice' &
    while [ ! -e notes/held ]; do nap; done
    $bob $semrun --name x -n -- true || echo busy $?
    $bob $semrun -q --name x -- sh -c 'echo bob' &
    $alice $semrun -q --name x -- sleep 1000 &
    victim=$!
    while [ \"$($bob $semrun status --json x | grep -c place)\" -lt 2 ]; do nap; done
    kill -KILL $victim
    touch notes/go
    while kill -0 $victim 2>/dev/null; do nap; done
    wait
    $mallory $semrun --name x -n -- echo mallory 2>/dev/null || echo refused $?
    $bob $semrun status x
    ls shared/x
";

#[test]
fn users_of_one_group_share_a_directory_that_the_group_may_write() {
    let world = World::new();
    for mode in ["2770", "770"] {
        let script = format!(
            "rm -rf shared notes; mkdir shared; chgrp 61000 shared; chmod {mode} shared\n{SHARE}"
        );
        shows_as_users(&world, &script, "busy 75\nalice\nbob\nrefused 69\nx: free\nmutex\n");
    }
}

#[test]
fn all_users_share_a_sticky_directory_of_roots() {
    let world = World::new();
    let script = format!("mkdir -m 1777 shared\n{SHARE}");
    shows_as_users(&world, &script, "busy 75\nalice\nbob\nmallory\nx: free\nmutex\n");
}

#[test]
fn a_directory_of_a_stranger_is_refused_even_by_root() {
    let world = World::new();
    let script = "
        mkdir of-alice; chown 61001:61000 of-alice; chmod 2770 of-alice
        $alice $semrun --backend file://$PWD/of-alice --name x -- echo fine
        $bob $semrun --backend file://$PWD/of-alice --name x -- echo no 2>bob || echo bob $?
        $semrun --backend file://$PWD/of-alice --name x -- echo no 2>root || echo root $?
        grep -c 'belongs to uid 61001' bob root
        grep -c . bob root";
    let expected = "fine\nbob 69\nroot 69\nbob:1\nroot:1\nbob:1\nroot:1\n";
    shows_as_users(&world, script, expected);
}

#[test]
fn a_directory_of_a_user_whom_a_namespace_does_not_map_is_refused_in_other_words() {
    let world = World::new();
    // Root owns it, but this namespace does not know root.
    let script = "
        mkdir -m 1777 shared
        $alice unshare -r $semrun --config /dev/null --backend file://$PWD/shared --name x -- echo no 2>err || echo $?
        grep -c 'whom this user namespace does not map' err; grep -c 'have root own' err || true
        mkdir -m 700 own; chown 61001:61000 own
        $alice unshare -r $semrun --config /dev/null --backend file://$PWD/own --name x -- echo fine";
    shows_as_users(&world, script, "69\n1\n0\nfine\n");
}

#[test]
fn stopped_waiters_that_proc_hides_from_those_behind_them_are_passed_over() {
    let world = World::new();
    let script = "
        mkdir -m 1777 shared; mkdir -m 777 notes; echo > notes/order; chmod 666 notes/order
        export SEMRUN_BACKEND=file://$PWD/shared
        waiting() { $semrun status --json x | grep -c place || true; }
        mount -t proc -o hidepid=2 proc /proc
        $bob $semrun -q --name x -- sh -c 'echo > notes/held; while [ ! -e notes/go ]; do sleep 0.02; done' &
        holder=$!; stopped=
        while [ ! -e notes/held ]; do nap; done
        for number in 1 2 3 4; do
            $alice $semrun -q --name x -- sh -c 'echo alice >> notes/order' & stopped=\"$stopped $!\"
            while [ $(waiting) != $number ]; do nap; done
        done
        $bob $semrun -q --name x -- sh -c 'echo bob >> notes/order' & waiter=$!
        while [ $(waiting) != 5 ]; do nap; done
        for one in $stopped; do $bob test ! -e /proc/$one || echo seen; done
        kill -STOP $stopped
        touch notes/go; wait $holder; wait $waiter
        kill -CONT $stopped; wait $stopped; uniq -c notes/order | xargs";
    shows_as_users(&world, script, "1 1 bob 4 alice\n");
}

#[test]
fn a_directory_that_cannot_be_written_is_an_error_that_says_so() {
    let world = World::new();
    let script = "
        mkdir -m 755 readable; mkdir -m 700 hidden
        $alice $semrun --backend file://$PWD/readable --name x -- echo no 2>one || echo $?
        $alice $semrun --backend file://$PWD/hidden --name x -- echo no 2>two || echo $?
        grep -c 'make it writable' one; grep -c 'ask its owner to share it' two
        $alice $semrun status --backend file://$PWD/readable x
        mount -t tmpfs -o ro none hidden
        $semrun --backend file://$PWD/hidden --name x -- echo no 2>three || echo $?
        grep -c 'Read-only file system' three
        ls readable";
    shows_as_users(&world, script, "69\n69\n1\n1\nx: free; this name has not been used\n69\n1\n");
}

#[test]
fn the_default_directory_is_the_same_for_cron_and_a_login_shell() {
    let world = World::new();
    let script = "
        where() { sed -n 's/semrun: permits live in //p'; }
        mount -t tmpfs none /run; mount -t tmpfs none /var/tmp; chmod 1777 /var/tmp
        # Root, whatever the variables say.
        HOME=/nowhere XDG_STATE_HOME=/nowhere $semrun -v --name x -- true 2>&1 | where
        # A user with a home in the user database.
        mkdir -m 700 home; chown 61001 home
        { cat /etc/passwd; echo \"alice:x:61001:61001::$PWD/home:/bin/sh\"; } > passwd
        chmod 644 passwd; mount --bind passwd /etc/passwd
        HOME=/nowhere XDG_STATE_HOME=/nowhere $alice $semrun -v --name x -- true 2>&1 | where | sed s:$PWD:.:
        env -i $(command -v setpriv) --reuid=61001 --clear-groups $semrun -v --name x -- true 2>&1 | where | sed s:$PWD:.:
        stat -c %a home/.local home/.local/state/semrun
        # With a umask that takes all rights from all users, the owner included.
        rm -r home/.local; umask 777; $alice $semrun --name x -- echo fine; umask 22
        stat -c %a home/.local home/.local/state/semrun home/.local/state/semrun/x/mutex
        # A home that others could put another one's files into.
        chmod 777 home; $alice $semrun --name x -- echo no 2>open || echo $?; chmod 700 home
        grep -c 'lies in .*/home, which can be written by others' open
        # A home that cannot be written, and one that is missing.
        mount -t tmpfs -o ro none home
        $alice $semrun status | grep -c 'no semaphores in file:///.*/home/.local/state/semrun'
        $alice $semrun -v --name x -- true 2>&1 | where
        umount home; rm -r home
        $alice $semrun -v --name x -- true 2>&1 | where
        # A user that the database does not know.
        $bob $semrun -v --name x -- true 2>&1 | where
        stat -c '%a %u' /var/tmp/semrun-61002";
    let expected = "\
file:///run/semrun
file://./home/.local/state/semrun
file://./home/.local/state/semrun
700
700
fine
700
700
600
69
1
1
file:///var/tmp/semrun-61001
file:///var/tmp/semrun-61001
file:///var/tmp/semrun-61002
700 61002
";
    shows_as_users(&world, script, expected);
}

#[test]
fn another_users_directory_in_var_tmp_is_not_walked_into() {
    let world = World::new();
    let script = "
        mount -t tmpfs none /var/tmp; chmod 1777 /var/tmp
        $mallory mkdir -m 777 /var/tmp/semrun-61002
        $bob $semrun --name x -- echo no 2>one || echo $?
        rmdir /var/tmp/semrun-61002; $mallory ln -s /tmp /var/tmp/semrun-61002
        $bob $semrun --name x -- echo no 2>two || echo $?
        grep -c 'belongs to uid 61003' one; grep -c 'symbolic link' two";
    shows_as_users(&world, script, "69\n69\n1\n1\n");
}

#[test]
fn a_process_limit_is_125_and_gives_the_permit_back() {
    let world = World::new();
    let script = "
        mkdir -m 700 permits; chown 61001 permits
        export SEMRUN_BACKEND=file://$PWD/permits SEMRUN_CONFIG=/dev/null
        $alice prlimit --nproc=1:1 $semrun --name x -- echo no 2>one || echo $?
        grep -c 'semrun: cannot start a second process' one
        ls permits/x";
    shows_as_users(&world, script, "125\n1\nmutex\n");
}

#[test]
fn status_of_many_needs_no_threads() {
    let world = World::new();
    let script = "
        mkdir -m 700 shared; chown 61003 shared
        export SEMRUN_CONFIG=/dev/null SEMRUN_BACKEND=file://$PWD/shared
        $mallory $semrun limit x1 2 > /dev/null
        for number in $(seq 2 500); do echo cp -a shared/x1 shared/x$number; done | sh
        $mallory prlimit --nproc=1 $semrun status --json 2>&1 | grep -c 'limit.: 2'
        ";
    shows_as_users(&world, script, "500\n");
}

#[test]
fn a_command_of_another_user_keeps_the_permit_until_it_ends() {
    // As with sudo: semrun may not kill it, so it must not let another client in.
    let world = World::new();
    let script = "
        mkdir -m 700 permits; chown 61001 permits; mkdir -m 777 notes
        export SEMRUN_BACKEND=file://$PWD/permits
        cp $(command -v setpriv) become; chown 61002 become; chmod 4755 become
        $alice $semrun --name x -k 0.1 -- ./become --ruid=61002 sh -c '
            trap \"\" TERM; echo > notes/held; while [ ! -e notes/go ]; do sleep 0.02; done' 2>said &
        job=$!
        while [ ! -e notes/held ]; do nap; done
        kill -TERM $job
        until grep -q 'not allowed to kill' said; do nap; done
        $alice $semrun --name x -n -- echo no || echo busy $?
        touch notes/go
        wait $job || echo $?
        grep -c 'not allowed to kill' said
        ls permits/x";
    shows_as_users(&world, script, "busy 75\n1\nmutex\n");
}
