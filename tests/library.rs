//! The library as other programs use it: beside each other, beside the program, and no more of it
//! public than the list says.

#[cfg(test)]
mod library {
    use std::process::Command;
    use std::time::Duration;

    use semrun::{ErrorKind, Lost, Semaphore};

    /// A directory of permits, and a runtime.
    struct World {
        directory: tempfile::TempDir,
        runtime: tokio::runtime::Runtime,
    }

    impl World {
        fn new() -> Self {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            Self { directory: tempfile::tempdir().unwrap(), runtime }
        }

        fn url(&self) -> String {
            format!("file://{}", self.directory.path().join("permits").display())
        }

        fn semaphore(&self) -> Semaphore {
            Semaphore::connect(&self.url(), "job").unwrap()
        }

        fn semrun(&self, words: &[&str]) -> Command {
            let mut command = Command::new(env!("CARGO_BIN_EXE_semrun"));
            command.args(["--backend", &self.url()]).args(words);
            command
        }
    }

    #[test]
    fn permits_are_shared_up_to_the_limit_and_with_the_program() {
        let world = World::new();
        world.runtime.block_on(async {
            let semaphore = world.semaphore().limit(2).label("first");
            let first = semaphore.acquire().await.unwrap();
            let second = semaphore.try_acquire().await.unwrap().unwrap();
            assert!(second.fencing_token() > first.fencing_token());
            assert!(semaphore.try_acquire().await.unwrap().is_none());
            let brief = Duration::from_millis(50);
            assert!(semaphore.acquire_timeout(brief).await.unwrap().is_none());
            let run = world.semrun(&["--name", "job", "-n", "--", "true"]).status().unwrap();
            assert_eq!(run.code(), Some(75));
            let snapshot = semaphore.snapshot().await.unwrap();
            assert_eq!((snapshot.limit, snapshot.holders.len()), (Some(2), 2));
            assert_eq!(snapshot.holders[0].label, "first");
            assert_eq!(snapshot.holders[0].id, Some(first.id()));
            first.release().await.unwrap();
            let run = world.semrun(&["--name", "job", "-n", "--", "true"]).status().unwrap();
            assert_eq!(run.code(), Some(0));
        });
    }

    #[test]
    fn a_permit_that_is_dropped_is_released() {
        let world = World::new();
        world.runtime.block_on(async {
            drop(world.semaphore().acquire().await.unwrap());
            let next = world.semaphore().acquire_timeout(Duration::from_secs(20)).await;
            assert!(next.unwrap().is_some());
        });
    }

    #[test]
    fn a_holder_hears_that_its_permit_is_revoked() {
        let world = World::new();
        world.runtime.block_on(async {
            let mut permit = world.semaphore().acquire().await.unwrap();
            let revokes = world.semrun(&["release", "--force", "job"]).spawn();
            assert_eq!(permit.lost().await, Lost::Revoking);
            permit.release().await.unwrap();
            assert!(revokes.unwrap().wait().unwrap().success());
        });
    }

    /// What a library may not change of a process: the umask, the signals that are caught, ignored
    /// and blocked, and the limits.
    fn process_state() -> Vec<String> {
        let kept = ["Umask:", "SigBlk:", "SigIgn:", "SigCgt:"];
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let is_kept = |line: &&str| kept.iter().any(|field| line.starts_with(field));
        let state: Vec<_> = status.lines().filter(is_kept).chain(limits.lines()).collect();
        assert!(state.len() > 15, "{state:?}");
        state.into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn the_library_changes_no_state_of_the_process() {
        use std::os::unix::fs::PermissionsExt;

        use rustix::process::{Resource, getrlimit, setrlimit};

        // There has to be something to raise.
        let limit = getrlimit(Resource::Nofile);
        let below = limit.maximum.map(|most| most - 1).or(Some(1 << 20));
        setrlimit(Resource::Nofile, rustix::process::Rlimit { current: below, ..limit }).unwrap();
        let world = World::new();
        let before = process_state();
        for mode in [0o700, 0o2770] {
            let base = world.directory.path().join("permits");
            let _ = std::fs::create_dir(&base);
            std::fs::set_permissions(&base, PermissionsExt::from_mode(mode)).unwrap();
            world.runtime.block_on(async {
                let semaphore = world.semaphore();
                let permit = semaphore.acquire().await.unwrap();
                assert_eq!(process_state(), before, "{mode:o}");
                let brief = Duration::from_millis(50);
                assert!(semaphore.acquire_timeout(brief).await.unwrap().is_none());
                permit.release().await.unwrap();
            });
            assert_eq!(process_state(), before, "{mode:o}");
        }
    }

    #[test]
    fn a_permit_may_be_waited_for_and_held_on_any_thread() {
        let world = World::new();
        world.runtime.block_on(async {
            let counter = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
            let tasks: Vec<_> = (0..8)
                .map(|_| {
                    let (semaphore, counter) = (world.semaphore(), counter.clone());
                    tokio::spawn(async move {
                        let permit = semaphore.acquire().await.unwrap();
                        let before = counter.load(std::sync::atomic::Ordering::SeqCst);
                        tokio::task::yield_now().await;
                        counter.store(before + 1, std::sync::atomic::Ordering::SeqCst);
                        permit.release().await.unwrap();
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            assert_eq!(counter.load(std::sync::atomic::Ordering::SeqCst), 8);
        });
    }

    #[test]
    fn what_is_wrong_with_a_url_or_a_name_is_told_before_anything_is_connected() {
        for (url, name) in
            [("ftp://host", "job"), ("relative", "job"), ("file:///p", ""), ("redis://", "x")]
        {
            let error = Semaphore::connect(url, name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url} {name}: {error}");
        }
    }

    #[test]
    fn terms_that_no_semaphore_can_have_are_invalid() {
        let world = World::new();
        let (free, long) = (|| world.semaphore(), Duration::MAX);
        for semaphore in [
            free().limit(0),
            free().limit(10_001),
            free().ttl(Duration::from_millis(4_999)),
            free().ttl(long),
            free().min_hold(long),
        ] {
            let refused = world.runtime.block_on(semaphore.try_acquire());
            let error = refused.expect_err("an error");
            assert_eq!(error.kind(), ErrorKind::Invalid, "{semaphore:?}: {error}");
        }
        assert!(!world.directory.path().join("permits").exists());
    }

    /// Every public item, one a line: what a change of it breaks for users of the library.
    #[test]
    fn the_public_items_are_those_of_the_list() {
        let sources = [
            include_str!("../src/semaphore.rs"),
            include_str!("../src/semaphore/error.rs"),
            include_str!("../src/semaphore/place.rs"),
            include_str!("../src/custom_store.rs"),
            include_str!("../src/request.rs"),
            include_str!("../src/permits/terms.rs"),
            include_str!("../src/engine/wakeups.rs"),
            include_str!("../src/permits/snapshot.rs"),
            include_str!("../src/contract.rs"),
        ];
        let mut items = Vec::new();
        for source in sources {
            // All that is in an enum or a trait is as public as that.
            let mut open = false;
            for line in source.lines() {
                open |= line.starts_with("pub enum ") || line.starts_with("pub trait ");
                open &= !line.starts_with('}');
                let inner = line.strip_prefix("    ").filter(|_| open);
                let inner = inner.filter(|inner| inner.starts_with(char::is_alphabetic));
                let public = line.trim().strip_prefix("pub ").map(|_| line.trim());
                let item = public.filter(|line| !line.starts_with("pub use ")).or(inner);
                let item = item.map(|item| item.trim_end_matches(['{', ',', ' ']));
                items.extend(
                    item.map(|item| item.replace("pub(super) ", "").replace("pub(crate) ", "")),
                );
            }
        }
        let exported = include_str!("../src/lib.rs").lines().filter(|line| {
            line.starts_with("pub use")
                || *line == "pub mod custom_store;"
                || *line == "pub mod contract;"
        });
        items.extend(exported.map(str::to_owned));
        assert_eq!(items.join("\n") + "\n", include_str!("../docs/public-items.txt"));
    }
}
