use super::shared::shows_as_users;
use super::support::World;

/// `reads FILE WORDS`: how many of the ten options that read a file refuse it with these words.
const READERS: &str = r#"
    export SEMRUN_CONFIG=/dev/null
    unset SEMRUN_API_KEY SEMRUN_BACKEND
    good() { echo a-key-for-tests > $1; chmod 600 $1; }
    good other
    serve="timeout 20 $semrun serve --listen 192.0.2.1:1"
    client() { backend=$1; shift; timeout 20 $semrun --name x -w 0.1 --backend $backend "$@" -- true; }
    all() {
        $serve --api-key-file $1
        $serve --api-key-file other --tls-cert $1 --tls-key other
        $serve --api-key-file other --tls-cert other --tls-key $1
        $serve --api-key-file other --tls-cert other --tls-key other --client-ca-file $1
        client http://127.0.0.1:1 --api-key-file $1
        client redis://127.0.0.1:1 --password-file $1
        client rediss://127.0.0.1:1 --ca-file $1
        client rediss://127.0.0.1:1 --client-cert $1 --client-key other
        client rediss://127.0.0.1:1 --client-cert other --client-key $1
        $semrun --config $1 --name x -- true
    }
    reads() { all $1 2>&1 | grep -c "semrun: .*$1.* $2" || true; }
    # None of them speaks of trust.
    trusted() {
        all $1 2>&1 | grep -c -e 'written by' -e 'belongs to' -e 'lies in' -e 'symbolic' -e 'regular' \
            || true
    }
"#;

#[track_caller]
fn shows(script: &str, stdout: &str) {
    let world = World::on_this_machine();
    shows_as_users(&world, &format!("set +e\n{READERS}{script}\ntrue"), stdout);
}

#[test]
fn each_file_that_decides_is_one_that_only_we_and_root_may_change() {
    let script = "
        good file; trusted file
        chmod 620 file; reads file 'can be written by others'
        chmod 600 file; chown 61003 file; reads file 'belongs to uid 61003, and only you (uid 0) or root may own it'
        client http://127.0.0.1:1 --api-key-file file 2> /dev/null; echo $?
        $serve --api-key-file file 2> /dev/null; echo $?";
    shows(script, "0\n10\n10\n78\n78\n");
}

#[test]
fn each_directory_on_the_way_is_one_that_only_we_and_root_may_change() {
    let script = "
        mkdir -p a/b; good a/b/file; trusted a/b/file
        chmod 777 a; reads a/b/file 'lies in .*/a, which can be written by others.*chmod go-w .*/a prevents it'
        chmod 770 a; reads a/b/file 'lies in .*/a, which can be written by the group 0'
        chmod 1777 a; trusted a/b/file
        chmod 755 a; chown 61003 a/b; reads a/b/file 'lies in .*/a/b, which belongs to uid 61003'
        chown 0 a/b; chmod 1777 a/b; trusted a/b/file";
    shows(script, "0\n10\n10\n0\n10\n0\n");
}

#[test]
fn links_are_followed_where_only_we_and_root_could_have_made_them() {
    let script = "
        # As certbot has them.
        mkdir -p live archive; good archive/key1; ln -s ../archive/key1 live/key; trusted live/key
        # As Kubernetes has them.
        mkdir -m 1777 volume; mkdir volume/..2026; good volume/..2026/key
        ln -s ..2026 volume/..data; ln -s ..data/key volume/key; trusted volume/key
        ln -s $PWD/volume above; trusted above/key
        $mallory ln -s $PWD/archive/key1 volume/theirs
        reads volume/theirs 'is reached through the symbolic link .*/volume/theirs, which belongs to uid 61003'
        mkdir -m 777 open; good open/key; ln -s ../open/key live/open
        reads live/open 'lies in .*/open, which can be written by others'
        ln -s loop loop; reads loop 'cannot read'";
    shows(script, "0\n0\n0\n10\n10\n0\n");
}

#[test]
fn a_fifo_is_not_waited_for_and_what_a_shell_has_open_is_read() {
    let script = "
        mkfifo -m 600 fifo; reads fifo 'is not a regular file'
        $serve --api-key-file /dev/stdin < other 2>&1 | grep -c 'cannot listen at 192.0.2.1'
        cat other | $serve --api-key-file /dev/stdin 2>&1 | grep -c 'cannot listen at 192.0.2.1'
        chmod 666 other
        $serve --api-key-file /dev/stdin < other 2>&1 | grep -c 'every user of this machine can read it'
        $semrun --config /dev/null --backend file://$PWD/permits --name x -- echo fine
        $semrun --config /dev/zero --name x -- echo no 2>&1 | grep -c 'larger than'";
    shows(script, "10\n1\n1\n1\nfine\n1\n");
}

/// A FIFO in the state directory hung the server, which no signal but KILL ended.
#[test]
fn a_server_starts_only_with_files_that_it_made() {
    let script = "
        start() { $serve --api-key-file other --state-dir $1 2>&1 | grep -c \"$2\"; }
        code() { $serve --api-key-file other --state-dir $1 2> /dev/null; echo $?; }
        for file in journal lock seal-key; do
            rm -rf state; mkdir -m 700 state; mkfifo state/$file
            start state \"$file is not a regular file\"; code state
            rm state/$file; ln -s $PWD/other state/$file; start state \"$file is not a regular file\"
            rm state/$file; good state/$file; chown 61003 state/$file; start state \"$file belongs to uid 61003\"
        done
        rm -rf state; mkdir -m 700 state; mkfifo state/journal.new; start state 'cannot listen'; ls state
        rm -rf state; mkdir -m 777 state; start state 'can be written by others'; code state
        chmod 700 state; chown 61003 state; start state 'belongs to uid 61003'; code state
        chown 0 state; ln -s state link; start link 'is a symbolic link'; code link
        mkdir -m 777 open; start open/state 'lies in .*/open, which can be written by others'
        umask 777; start deep/er/state 'cannot listen'; umask 0; start deep/too 'cannot listen'
        stat -c '%a %n' deep deep/er deep/er/state deep/er/state/* deep/too/*
        # As systemd has the directory of a dynamic user.
        umask 22; mkdir private; mkdir -m 700 private/state; chown 61001 private/state; ln -s private/state systemd
        cp other theirs; chown 61001 theirs
        $alice $serve --api-key-file theirs --state-dir systemd 2>&1 | grep -c 'cannot listen'";
    let expected = "1\n78\n1\n1\n1\n78\n1\n1\n1\n78\n1\n1\n1\njournal\nlock\nseal-key\n\
        1\n78\n1\n78\n1\n78\n1\n1\n1\n\
        700 deep\n700 deep/er\n700 deep/er/state\n600 deep/er/state/journal\n\
        600 deep/er/state/lock\n600 deep/er/state/seal-key\n600 deep/too/journal\n\
        600 deep/too/lock\n600 deep/too/seal-key\n1\n";
    shows(script, expected);
}
