//! A command is its whole tree: whatever stops it, nothing that it started is alive when its permit
//! passes on; and nothing but the command decides about its exit code.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::faults::{OPTIONS, worker};
use super::root::as_root;
use super::support::{
    Leftover, Running, SEMRUN, World, content, is_alive, pid_in, pids_of_children, shows,
    wait_until,
};

/// A job in the background, which keeps what the terminal and the shell do to it to itself.
const JOB: &str = "setsid sh -c 'trap \"\" INT QUIT; echo $$ > job; exec sleep 1000' & \
                   while [ ! -s job ]; do sleep 0.01; done; ";

fn job(world: &World) -> Pid {
    pid_in(&world.path("job"))
}

#[test]
fn a_command_that_a_signal_ended_takes_its_tree_with_it() {
    World::everywhere(|world| {
        for orphans in ["leave", "wait", "kill"] {
            for (signal, code) in [("KILL", 137), ("TERM", 143), ("HUP", 129), ("SEGV", 139)] {
                let script = format!("ulimit -c 0; {JOB} kill -{signal} $$");
                let run = Running::start(&mut world.script(&["--orphans", orphans], &script));
                let output = run.finish();
                assert_eq!(output.status.code(), Some(code), "{orphans} {signal}");
                assert!(!is_alive(job(world)), "{orphans} {signal}");
                std::fs::remove_file(world.path("job")).unwrap();
            }
        }
    });
}

#[test]
fn a_shell_that_says_that_its_child_was_killed_takes_its_tree_with_it() {
    let world = World::new();
    for (code, takes) in [(129, true), (130, true), (131, true), (137, true), (143, true)]
        .into_iter()
        .chain([(1, false), (128, false), (134, false), (255, false), (0, false)])
    {
        let script = format!("{JOB} exit {code}");
        let output = Running::start(&mut world.script(&[], &script)).finish();
        assert_eq!(output.status.code(), Some(code));
        assert_eq!(is_alive(job(&world)), !takes, "{code}");
        drop(Leftover(job(&world)));
        std::fs::remove_file(world.path("job")).unwrap();
    }
}

#[test]
fn one_half_of_a_pipeline_does_not_go_on_when_the_shell_is_killed() {
    World::everywhere(|world| {
        let script = "echo $$ > shell; sh -c 'echo $$ > job; exec sleep 1000' | cat";
        let run = Running::start(&mut world.script(&[], script));
        let (shell, job) = (pid_in(&world.path("shell")), job(world));
        let waiter = world.waiter(&[], &format!("kill -0 {} || echo free", job.as_raw_nonzero()));
        kill_process(shell, Signal::KILL).unwrap();
        assert_eq!(run.finish().status.code(), Some(137));
        assert_eq!(waiter.finish().stdout, b"free\n");
    });
}

#[test]
fn an_interrupted_command_leaves_something_only_if_it_ended_with_0() {
    World::everywhere(|world| {
        for signal in [Signal::INT, Signal::QUIT] {
            for code in [0, 1] {
                let script = format!(
                    "trap 'exit {code}' INT QUIT; {JOB} echo > ready; while :; do sleep 0.01; done"
                );
                let run = Running::start(&mut world.script(&[], &script));
                content(&world.path("ready"));
                run.signal(signal);
                assert_eq!(run.finish().status.code(), Some(code));
                assert_eq!(is_alive(job(world)), code == 0);
                drop(Leftover(job(world)));
                for file in ["job", "ready"] {
                    std::fs::remove_file(world.path(file)).unwrap();
                }
            }
        }
    });
}

#[test]
fn verbose_lists_what_a_command_leaves_running() {
    let world = World::new();
    let run = Running::start(&mut world.script(&["-v"], &format!("{JOB} exit 0")));
    let output = run.finish();
    let job = Leftover(job(&world));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let expected = format!(
        "the command has exited and leaves a process running, without a permit: {} (sleep)\n",
        job.0.as_raw_nonzero()
    );
    assert!(stderr.contains(&expected), "{stderr}");
}

#[test]
fn when_either_process_of_semrun_is_killed_nothing_is_left_of_what_closed_its_descriptors() {
    World::everywhere(|world| {
        for victim in ["guardian", "worker"] {
            // As Python's subprocess does.
            let script = "exec python3 -c '
import subprocess
subprocess.run([\"sh\", \"-c\", \"echo $$ > job; exec sleep 1000\"], close_fds=True)'";
            let run = Running::start(&mut world.script(&OPTIONS, script));
            let job = job(world);
            let script = format!("kill -0 {} || echo free", job.as_raw_nonzero());
            let waiter = world.waiter(&OPTIONS, &script);
            let pid = if victim == "worker" { worker(&run) } else { run.pid() };
            kill_process(pid, Signal::KILL).unwrap();
            assert_eq!(waiter.finish().stdout, b"free\n", "{victim}");
            wait_until("it is dead", || !is_alive(job));
            let code = run.finish().status.code();
            assert_eq!(code, (victim == "worker").then_some(125), "{victim}");
            std::fs::remove_file(world.path("job")).unwrap();
        }
    });
}

#[test]
fn a_run_that_waits_on_this_machine_is_one_process() {
    let world = World::on_this_machine();
    let holder = world.holder(&[]);
    let waiter = world.waiter(&[], "");
    assert_eq!(super::support::children(waiter.pid()), []);
    drop(holder);
    assert!(waiter.finish().status.success());
}

/// Makes every process that opens the file to execute it wait, as a server of files does that does
/// not answer.
fn hanging(world: &World) -> (Running, String) {
    let path = world.path("hanging");
    std::fs::copy("/bin/true", &path).unwrap();
    let script = "import fcntl, os, signal, sys, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
file = os.open(sys.argv[1], os.O_RDONLY)
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
open('leased', 'w').write('1\\n')
time.sleep(1000)";
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(&path).current_dir(world.path("."));
    let lease = Running::start(&mut python);
    content(&world.path("leased"));
    (lease, path.display().to_string())
}

#[test]
fn a_program_whose_file_does_not_come_can_be_stopped_and_keeps_its_permit_meanwhile() {
    World::everywhere(|world| {
        let (lease, program) = hanging(world);
        let options = ["--ttl", "5s", "-k", "1s"];
        let start = |more: &[&str]| {
            let run = Running::start(world.run(options).args(more).args(["--", &program]));
            wait_until("it holds a permit", || world.holders() == [run.id()]);
            let worker = worker(&run);
            wait_until("there is a process", || !pids_of_children(worker).is_empty());
            run
        };
        let run = start(&[]);
        run.signal(Signal::TERM);
        super::support::died_of(&run.finish(), Signal::TERM);

        let run = start(&["--max-runtime", "0.3"]);
        let output = run.finish();
        assert_eq!(output.status.code(), Some(124), "{output:?}");

        // Longer than its lease.
        let mut run = start(&[]);
        let begin = std::time::Instant::now();
        wait_until("the lease would be over", || begin.elapsed().as_secs() >= 6);
        assert!(run.try_wait().unwrap().is_none());
        assert_eq!(world.holders(), [run.id()]);
        drop(lease);
        shows(&run.finish(), 0, "", "");
    });
}

#[test]
fn the_number_of_a_command_that_has_ended_may_be_that_of_another_process_of_the_tree() {
    let world = World::on_this_machine();
    let late = "import os, sys, time
want, how = int(sys.argv[1]), sys.argv[2]
while os.path.exists('/proc/%d' % want): time.sleep(0.01)
while True:
    first = os.fork()
    if first == 0:
        open('/proc/sys/kernel/ns_last_pid', 'w').write(str(want - 1))
        second = os.fork()
        if second == 0:
            time.sleep(0.2)
            if os.getpid() == want: os._exit(3) if how == 'exit' else os.kill(want, 9)
            os._exit(0)
        os._exit(0 if second == want else 1)
    if os.waitpid(first, 0)[1] == 0: break
open('again', 'w').write('1')
time.sleep(0.4)";
    std::fs::write(world.path("late.py"), late).unwrap();
    for how in ["exit", "kill"] {
        let script = format!(
            "mount -t proc proc /proc; {SEMRUN} --name x --orphans wait -- \
             sh -c 'setsid python3 late.py $$ {how} & exit 7'; echo $?"
        );
        let mut unshare = as_root("unshare");
        unshare.args(["--pid", "--mount", "--fork", "--kill-child", "sh", "-c", &script]);
        unshare.current_dir(world.path(".")).envs(world.environment());
        let output = unshare.stderr(Stdio::inherit()).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "7\n", "{how}");
        std::fs::remove_file(world.path("again")).expect("the number came again");
    }
}

#[test]
fn processes_that_proc_hides_are_stopped_as_well() {
    World::everywhere(|world| {
        let sleep = world.path("sleep");
        std::fs::copy("/bin/sleep", &sleep).unwrap();
        std::fs::set_permissions(&sleep, PermissionsExt::from_mode(0o4755)).unwrap();
        std::fs::set_permissions(world.path("."), PermissionsExt::from_mode(0o777)).unwrap();
        let permits = world.path("permits");
        std::fs::create_dir_all(&permits).unwrap();
        std::fs::set_permissions(&permits, PermissionsExt::from_mode(0o1777)).unwrap();
        let script = format!(
            "mount -t proc -o hidepid=2 proc /proc
             exec setpriv --reuid 61001 --regid 61001 --clear-groups {SEMRUN} --name x --ttl 5s \
                 -k 0.3 --max-runtime 0.3 -- sh -c 'setsid {} 8.123 & wait'",
            sleep.display()
        );
        let mut unshare = as_root("unshare");
        unshare.args(["--pid", "--mount", "--fork", "--kill-child", "sh", "-c", &script]);
        unshare.current_dir(world.path(".")).envs(world.environment());
        let begin = std::time::Instant::now();
        let output = unshare.output().unwrap();
        assert_eq!(output.status.code(), Some(124), "{output:?}");
        // It would have gone on for eight seconds, and semrun beside it.
        assert!(begin.elapsed().as_secs() < 7);
    });
}

#[test]
fn what_fails_between_fork_and_exec_is_named_and_is_no_fault_of_the_command() {
    let world = World::on_this_machine();
    for (call, errno, step) in [("setpgid", "EPERM", "process group"), ("prlimit64", "EPERM", "")] {
        let mut strace = Command::new("strace");
        strace
            .args(["-f", "-o", "/dev/null", "-e", &format!("inject={call}:error={errno}")])
            .args([SEMRUN, "--name", "x", "--", "true"])
            .current_dir(world.path("."))
            .envs(world.environment());
        let output = strace.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        if step.is_empty() {
            // A limit that cannot be read is left as it is.
            assert_eq!((output.status.code(), &*stderr), (Some(0), ""), "{call}");
        } else {
            assert_eq!(output.status.code(), Some(125), "{stderr}");
            assert!(stderr.contains(step) && !stderr.contains("executable"), "{stderr}");
        }
    }
}

#[test]
fn a_file_for_another_machine_is_126_and_a_script_without_a_first_line_runs() {
    let world = World::new();
    let file = |name: &str, content: &[u8]| {
        let path = world.path(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    };
    let mut elf = std::fs::read("/bin/true").unwrap();
    // Of no machine that there is.
    elf[18..20].copy_from_slice(&[0xfe, 0xca]);
    let elf = file("elf", &elf);
    let torn = file("torn", b"\x7fELF");
    let java = file("java", &[0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 52]);
    let interpreter = file("interpreter", b"#!/nonexistent/interpreter\n");
    for path in [&elf, &torn, &java, &interpreter] {
        let output = world.run([path.as_os_str()]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(126), "{}: {stderr}", path.display());
    }
    let script = file("script", b"echo \"script $1\"; exit 5");
    shows(
        &world.run([script.as_os_str(), "one".as_ref()]).output().unwrap(),
        5,
        "script one\n",
        "",
    );
    let empty = file("empty", b"");
    shows(&world.run([empty.as_os_str()]).output().unwrap(), 0, "", "");
}

#[test]
fn what_a_stopped_command_leaves_in_its_group_ends_also_without_proc() {
    let world = World::on_this_machine();
    let begin = std::time::Instant::now();
    let output = world.with_mounts(&format!(
        "umount -l /proc
        SEMRUN_CONFIG=/dev/null $semrun --backend {} --name x -k 0.2 -- \\
            sh -c '(trap \"\" TERM; sleep 30; sleep 0) & kill -9 $$' || exit $?",
        world.backend()
    ));
    assert_eq!(output.status.code(), Some(137), "{output:?}");
    assert!(begin.elapsed().as_secs() < 20, "it waited for what it could have killed");
}
