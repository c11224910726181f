//! Many permits of one process: how many connections and how much memory they take, and whether they
//! are served in order. Each test has a process of its own, so that its memory is its own.

#[cfg(test)]
mod many {
    use std::process::Command;
    use std::time::Duration;
    use std::{env, fs};

    use semrun::{Permit, Place, Semaphore};
    use semrun_testkit::cloud_server::{CloudServer, KEY};
    use semrun_testkit::redis_server::RedisServer;
    use tokio::task::JoinSet;

    const EACH: usize = 1_000;
    const NAMES: usize = 10;
    const MOST: usize = 8 * 1024;

    /// The resident memory of this process, in bytes.
    fn memory() -> usize {
        let pages = fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }

    /// How many connections this process has to a port.
    fn connections(port: u16) -> usize {
        let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let sockets: Vec<_> = open
            .filter_map(|fd| fs::read_link(fd.path()).ok()?.to_str().map(str::to_owned))
            .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        let port = format!(":{port:04X}");
        let lines = fs::read_to_string("/proc/net/tcp").unwrap();
        let ours = |line: &&str| {
            let words: Vec<_> = line.split_whitespace().collect();
            words.get(2).is_some_and(|to| to.ends_with(&port))
                && words.get(9).is_some_and(|inode| sockets.iter().any(|one| one == inode))
        };
        lines.lines().filter(ours).count()
    }

    async fn waiting(semaphores: &[Semaphore], count: usize) {
        for _ in 0..1_000 {
            let mut found = 0;
            for semaphore in semaphores {
                found += semaphore.snapshot().await.unwrap().waiters.len();
            }
            if found == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("not in time: {count} wait");
    }

    fn hold_and_wait(place: &Place, port: u16) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let first = place.semaphore("0").unwrap().limit(100);
            let names = (0..NAMES).map(|name| first.named(&name.to_string()).unwrap());
            let semaphores: Vec<_> = names.collect();
            // What is needed once.
            semaphores[0].acquire().await.unwrap().release().await.unwrap();
            let before = memory();
            let mut holders: Vec<Vec<Permit>> = Vec::new();
            for semaphore in &semaphores {
                let mut asking = JoinSet::new();
                for _ in 0..EACH / NAMES {
                    let semaphore = semaphore.clone();
                    asking.spawn(async move { semaphore.acquire().await.unwrap() });
                }
                holders.push(asking.join_all().await);
            }
            let mut waiters = JoinSet::new();
            for (name, semaphore) in semaphores.iter().enumerate() {
                for _ in 0..EACH / NAMES {
                    let semaphore = semaphore.clone();
                    waiters.spawn(async move { (name, semaphore.acquire().await.unwrap()) });
                }
            }
            waiting(&semaphores, EACH).await;
            let each = memory().saturating_sub(before) / (2 * EACH);
            eprintln!("{each} bytes for each permit");
            assert!(each <= MOST, "{each} bytes for each permit");
            assert_eq!(connections(port), 2);
            // One permit of each name after the other goes to the first in line.
            let mut lines: Vec<Vec<_>> = Vec::new();
            for semaphore in &semaphores {
                let snapshot = semaphore.snapshot().await.unwrap();
                lines.push(snapshot.waiters.iter().map(|waiter| waiter.id.unwrap()).collect());
            }
            let mut served = vec![Vec::new(); NAMES];
            while let Some(held) = holders.iter_mut().find(|held| !held.is_empty()) {
                held.pop().unwrap().release().await.unwrap();
                let (name, permit) = waiters.join_next().await.unwrap().unwrap();
                served[name].push((permit.id(), permit.fencing_token()));
                permit.release().await.unwrap();
            }
            for (served, line) in served.iter().zip(&lines) {
                assert!(served.is_sorted_by_key(|(_, token)| *token));
                let ids: Vec<_> = served.iter().map(|(id, _)| *id).collect();
                assert_eq!(&ids, line);
            }
        });
    }

    /// Whether this process runs that test alone. If not, another is started that does, and judged.
    fn is_alone(test: &str) -> bool {
        const ALONE: &str = "SEMRUN_TEST_ALONE";
        if env::var_os(ALONE).is_some() {
            return true;
        }
        let path = format!("many::{test}");
        let mut alone = Command::new(env::current_exe().unwrap());
        let output = alone.args(["--exact", &path]).env(ALONE, "1").output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && told.contains("1 passed"), "{told}");
        false
    }

    #[test]
    fn two_thousand_permits_take_two_connections_to_a_redis() {
        if !is_alone("two_thousand_permits_take_two_connections_to_a_redis") {
            return;
        }
        let server = RedisServer::start();
        let place = Place::new(server.url()).quarantine(Duration::ZERO);
        hold_and_wait(&place, server.port());
    }

    #[test]
    fn two_thousand_permits_take_two_connections_to_a_server_of_ours() {
        if !is_alone("two_thousand_permits_take_two_connections_to_a_server_of_ours") {
            return;
        }
        let server = CloudServer::ours();
        hold_and_wait(&Place::new(server.url()).api_key(KEY), server.port());
    }
}
