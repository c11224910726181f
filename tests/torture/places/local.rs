use std::fs;
use std::ops::Range;
use std::os::unix::fs::{PermissionsExt, chown};

use super::disk::Disk;
use super::{Place, Situation, Strike};
use crate::torture::arena::Setting;
use crate::torture::dice::Dice;
use crate::torture::history::{Judge, Semaphore};
use crate::torture::processes::Process;

/// The group of the shared directory, and its users.
const GROUP: u32 = 61_000;
const USERS: [u32; 2] = [61_001, 61_002];

/// A directory that two users and root share, on a small disk.
pub(super) struct Local {
    disk: Disk,
}

/// One that is taken at a time, some more, and one whose directory is removed while it is used.
const SEMAPHORES: [Semaphore; 3] = [
    Semaphore { name: "one", limit: 1, judge: Judge::Locks },
    Semaphore { name: "three", limit: 3, judge: Judge::Locks },
    Semaphore { name: "removed", limit: 2, judge: Judge::Tokens },
];

impl Local {
    pub(super) fn new(setting: &Setting) -> Self {
        let disk = Disk::mount(&setting.here.join("permits"), "1m");
        chown(disk.path(), None, Some(GROUP)).unwrap();
        fs::set_permissions(disk.path(), fs::Permissions::from_mode(0o2770)).unwrap();
        Self { disk }
    }
}

impl Place for Local {
    fn semaphores(&self) -> &[Semaphore] {
        &SEMAPHORES
    }

    fn backend(&self, _by_proxy: bool) -> String {
        format!("file://{}", self.disk.path().display())
    }

    fn has_server(&self) -> bool {
        false
    }

    fn pace(&self) -> Range<u64> {
        // What dies here passes its permit on at that moment.
        5..120
    }

    fn faults(&self) -> &[&'static str] {
        &["fill-disk", "remove-directory"]
    }

    fn strike(&mut self, kind: &'static str, dice: &mut Dice, _: &Situation) -> Option<Strike> {
        if kind == "fill-disk" {
            self.disk.fill();
            return Some(Strike::lasting(dice.millis(100..2500)));
        }
        // As far as it can be: a process may be making new files in it.
        let _ = fs::remove_dir_all(self.disk.path().join("removed"));
        Some(Strike::lasting(dice.millis(100..1000)))
    }

    fn mend(&mut self, _kind: &'static str) {
        self.disk.free();
    }

    fn prefix(&self, dice: &mut Dice) -> (Vec<String>, bool) {
        let words = |line: String| line.split(' ').map(String::from).collect();
        match dice.below(16) {
            0 => (words(format!("prlimit --nofile={}", 8 + dice.below(40))), true),
            at if at < 9 => {
                let user = USERS[at % 2];
                (words(format!("setpriv --reuid={user} --regid={GROUP} --clear-groups")), false)
            }
            _ => (Vec::new(), false),
        }
    }

    fn is_stuck(&self, semaphore: Semaphore, stopped: &[Process]) -> bool {
        stopped.iter().for_each(Process::wait_for_stop);
        let mutex = fs::metadata(self.disk.path().join(semaphore.name).join("mutex"));
        mutex.is_ok_and(|mutex| stopped.iter().any(|one| one.has_locked(&mutex)))
    }

    fn long_jobs(&self) -> usize {
        // No lease has to be renewed.
        1
    }

    fn leftovers(&mut self) -> Vec<String> {
        let files = |semaphore: &Semaphore| {
            let files = fs::read_dir(self.disk.path().join(semaphore.name)).into_iter().flatten();
            let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
            names.filter(|name| name != "mutex" && name != "done").collect::<Vec<_>>()
        };
        SEMAPHORES.iter().flat_map(files).collect()
    }
}
