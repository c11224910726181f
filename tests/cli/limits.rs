use super::leases::server;
use super::restarts::remembering;
use super::support::{World, fails, shows, wait_until};

fn limit(world: &World, arguments: &[&str]) -> String {
    let output = world.semrun(["limit", "x"]).args(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_limit_is_shown_pinned_and_unpinned() {
    World::everywhere(|world| {
        assert_eq!(limit(world, &[]), "x: idle; the next run sets the limit\n");
        assert_eq!(limit(world, &["3"]), "x: limit 3, pinned\n");
        assert_eq!(limit(world, &[]), "x: limit 3, pinned\n");
        assert_eq!(limit(world, &["5"]), "x: limit 5, pinned (was 3)\n");
        let idle = world.semrun(["status", "x"]).output().unwrap();
        shows(&idle, 0, "x: free, limit 5 pinned\n", "");
        // Who names no limit takes it as it is, and who names another one hears of it.
        shows(&world.run(["-n", "true"]).output().unwrap(), 0, "", "");
        let other = world.run(["-l", "2", "true"]).output().unwrap();
        let stderr = String::from_utf8(other.stderr).unwrap();
        assert!(stderr.contains("pinned to a limit of 5") && stderr.contains('2'), "{stderr}");
        let strict = world.run(["-l", "2", "--strict-limit", "true"]).output().unwrap();
        fails(&strict, 78, &["is pinned to a limit of 5", "not 2"]);
        assert_eq!(limit(world, &["--unpin"]), "x: idle; the next run sets the limit\n");
        let _holder = world.holder(&["-l", "2"]);
        assert_eq!(limit(world, &[]), "x: limit 2, as long as it is in use\n");
        assert_eq!(limit(world, &["--unpin"]), "x: limit 2, as long as it is in use\n");
    });
}

#[test]
fn raising_it_wakes_all_that_fit_at_once_and_lowering_it_stops_no_holder() {
    World::everywhere(|world| {
        let first = world.holder(&[]);
        let waiters: Vec<_> = (0..6).map(|_| world.waiter(&[], "exec sleep 1000")).collect();
        assert_eq!(limit(world, &["6"]), "x: limit 6, pinned (was 1)\n");
        wait_until("five more hold", || world.holders().len() == 6);
        assert_eq!(world.waiters(), [waiters[5].id()], "in their order");
        let lowered = limit(world, &["2"]);
        assert_eq!(
            lowered,
            "x: limit 2, pinned (was 6); 6 are held, and none is granted until fewer are\n"
        );
        assert_eq!(world.holders().len(), 6);
        drop(first);
        drop(waiters);
        wait_until("they are free", || world.run(["-n", "true"]).status().unwrap().success());
    });
}

#[test]
fn nothing_is_granted_until_the_number_fits() {
    World::everywhere(|world| {
        let mut holders: Vec<_> = (0..3).map(|_| world.holder(&["-l", "3"])).collect();
        limit(world, &["2"]);
        let waiter = world.waiter(&["-l", "3", "-q"], "echo mine");
        // One goes, and two are as many as there may be.
        drop(holders.pop());
        shows(&world.run(["-n", "true"]).output().unwrap(), 75, "", "");
        assert_eq!(world.waiters(), [waiter.id()]);
        drop(holders.pop());
        shows(&waiter.finish(), 0, "mine\n", "");
    });
}

#[test]
fn a_pinned_limit_outlives_a_restart_of_a_server_that_keeps_its_state() {
    let mut world = remembering();
    limit(&world, &["4"]);
    server(&mut world).kill();
    server(&mut world).start_again();
    assert_eq!(limit(&world, &[]), "x: limit 4, pinned\n");
    let _holders: Vec<_> = (0..4).map(|_| world.holder(&[])).collect();
    shows(&world.run(["-n", "true"]).output().unwrap(), 75, "", "");
}
