//! The second process: where permits expire, semrun is two processes that watch each other, so
//! that the death of either ends the command in time. The *guardian* has the pid that other
//! processes see. It mirrors how the other one stops and ends, kills the whole tree when the lease
//! is about to end, and never waits for the network. The *worker*, in a process group of its own,
//! does everything else; it stops the tree when the guardian vanishes.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read, write};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, getpid, set_child_subreaper,
    waitid, waitpid,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::descendants::Process;
use super::outcome::ProcessEnd;
use super::process_tree::{Tree, preexisting, take_deserted_terminal};
use super::signals::{self, StopTarget, received};
use super::{ENDING, descendants};
use crate::clock::{Moment, Timer};
use crate::mutants::{self, Guard};
use crate::sys::program_memory::{self, QUIET};
use crate::sys::{fork, watch};

/// What the worker says, two bytes each; the guardian answers the first two. The third brings a
/// descriptor to keep. The others end the guardian: with an exit code, with the number of a signal
/// that ended the command or that semrun has to die of, or in the same way as the worker.
const STOP_SEMRUN: u8 = b's';
const STOP_GROUP: u8 = b'g';
const KEEP: u8 = b'k';
const EXITED: u8 = b'e';
const SIGNALLED: u8 = b'c';
const RERAISE: u8 = b'r';
const FAILED: u8 = b'f';
const STOPPED: u8 = b'1';
const NOT_STOPPED: u8 = b'0';

/// How long the guardian waits until it looks again whether anything is left of a tree.
const PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Which of the two processes this is.
pub(crate) enum ForkSide {
    Guardian(Guardian),
    Worker(FrontProcess),
}

pub(crate) struct Guardian {
    worker: Pid,
    strangers: Vec<Process>,
    link: OwnedFd,
    /// Rings when the lease is about to end and the tree still lives.
    timer: Timer,
    /// The permit's descriptor, if it has one: kept until nothing is left of the tree.
    permit: Option<OwnedFd>,
}

/// One thing that the worker says.
struct WorkerMessage {
    said: [u8; 2],
    /// The descriptor that came with it.
    brought: Option<OwnedFd>,
}

/// How the worker ended.
#[derive(Debug)]
pub(crate) enum WorkerEnd {
    /// It did all its work.
    Done(ProcessEnd),
    /// It died before that. Nothing is left of the command.
    Died(WaitStatus),
    /// It did not renew in time, nor kill the tree. Nothing is left of either.
    Expired,
}

/// Makes two processes of this one. To be called while there is one thread. If the permit is there
/// already, and is taken by a descriptor, the guardian has that from the start: see [`FrontProcess::keep_open`].
pub(crate) fn fork_guardian(permit: Option<BorrowedFd<'_>>) -> io::Result<ForkSide> {
    let (ours, theirs) = connected()?;
    let timer = Timer::new()?;
    let permit = permit.map(|permit| permit.try_clone_to_owned()).transpose()?;
    // What the worker leaves behind becomes our child.
    set_child_subreaper(Some(getpid()))?;
    let strangers = preexisting();
    if let Some(worker) = fork(signals::address_the_parent)? {
        return Ok(ForkSide::Guardian(Guardian { worker, strangers, link: ours, timer, permit }));
    }
    drop(ours);
    let keeps = permit.is_some();
    Ok(ForkSide::Worker(FrontProcess::Guardian(GuardianLink {
        fd: theirs,
        timer,
        watched: None,
        keeps,
    })))
}

/// The connection of the two: each message comes whole.
fn connected() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

impl Guardian {
    /// Returns when the worker has ended, and nothing of the command can do any more harm.
    /// `unkillable` is told of processes that we may not kill.
    pub(crate) fn watch(mut self, unkillable: impl FnMut(&[Pid])) -> io::Result<WorkerEnd> {
        signals::hold_back(Signal::CHILD);
        loop {
            self.reap_others();
            let polled = [self.link.as_fd(), self.timer.fd()];
            let ready = signals::poll_or_child(polled, QUIET, program_memory::release_unused);
            let [link, timer] = match ready {
                Ok(ready) => ready,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            // Read it even if the worker was faster: it may have moved the moment since.
            if timer && read(self.timer.fd(), &mut [0; 8]).is_ok() {
                self.end_tree(unkillable)?;
                return Ok(WorkerEnd::Expired);
            }
            if !link {
                continue;
            }
            match self.receive() {
                Ok(Some(WorkerMessage { said: [KEEP, _], brought })) => self.permit = brought,
                Ok(Some(WorkerMessage { said: [what, value], .. })) => {
                    let signal = Signal::from_named_raw(value.into());
                    let end = match (what, signal) {
                        (STOP_SEMRUN | STOP_GROUP, _) => {
                            let whom = if what == STOP_GROUP {
                                StopTarget::Group
                            } else {
                                StopTarget::Semrun
                            };
                            let stopped = signals::stop(whom);
                            let _ =
                                write(&self.link, &[if stopped { STOPPED } else { NOT_STOPPED }]);
                            continue;
                        }
                        (FAILED, _) => return self.mirror(),
                        (RERAISE, Some(signal)) => ProcessEnd::Reraised(signal),
                        // A signal to the whole group may have ended the command before it reached
                        // the worker.
                        (SIGNALLED, Some(signal))
                            if ENDING.contains(&signal) && received(signal) =>
                        {
                            ProcessEnd::Reraised(signal)
                        }
                        (SIGNALLED, Some(signal)) => ProcessEnd::Signalled(signal),
                        _ => ProcessEnd::Code(value),
                    };
                    self.collect();
                    return Ok(WorkerEnd::Done(end));
                }
                // The worker has ended without reading what we said to it. The kernel reports that
                // once, before the worker's last messages.
                Err(Errno::AGAIN | Errno::INTR | Errno::CONNRESET) => {}
                Ok(_) | Err(_) if mutants::is_off(Guard::Guardian) => return self.mirror(),
                Ok(_) | Err(_) => {
                    let status = self.end_tree(unkillable)?;
                    return Ok(WorkerEnd::Died(status));
                }
            }
        }
    }

    /// What the worker has said. None: it is gone.
    fn receive(&self) -> Result<Option<WorkerMessage>, Errno> {
        let mut said = [0; 2];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut brought = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut said)];
        let received = recvmsg(&self.link, &mut into, &mut brought, RecvFlags::CMSG_CLOEXEC)?;
        let brought = brought.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        Ok((received.bytes == said.len()).then_some(WorkerMessage { said, brought }))
    }

    /// Other processes' children may be left to us, as to the first process of a container.
    fn reap_others(&mut self) {
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let has_ended = |whom| matches!(waitid(whom, ended), Ok(Some(_)));
        // Nearly always none has ended, or it is the worker, which is not reaped here. To look for
        // others is to read all of /proc.
        if !has_ended(WaitId::All) || has_ended(WaitId::Pid(self.worker)) {
            return;
        }
        for child in descendants::children() {
            if child != self.worker
                && let Ok(Some(_)) = waitpid(Some(child), WaitOptions::NOHANG)
            {
                self.strangers.retain(|stranger| stranger.pid != child);
            }
        }
    }

    /// The worker has nothing left to do, and ends. It would stay as a zombie where the first process
    /// collects none but its own, and no process would account for the command's processor time.
    fn collect(&self) {
        while matches!(waitpid(Some(self.worker), WaitOptions::empty()), Err(Errno::INTR)) {}
    }

    /// The worker has nothing left to do but to say what went wrong.
    fn mirror(&self) -> io::Result<WorkerEnd> {
        let status = loop {
            match waitpid(Some(self.worker), WaitOptions::empty()) {
                Ok(Some((_, status))) => break status,
                Ok(None) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        };
        Ok(match status.exit_status() {
            Some(code) => WorkerEnd::Done(ProcessEnd::Code(u8::try_from(code).unwrap_or(255))),
            None => WorkerEnd::Died(status),
        })
    }

    /// Kills the worker, and all descendants of it and of us, until none is left.
    fn end_tree(&self, mut unkillable: impl FnMut(&[Pid])) -> io::Result<WaitStatus> {
        let mut tree = Tree::adopt(self.worker, self.strangers.clone());
        let mut status = None;
        let mut refused = Vec::new();
        let mut pause = PAUSE;
        loop {
            let refusing = tree.kill()?;
            if !refusing.is_empty() && refusing != refused {
                unkillable(&refusing);
            }
            refused = refusing;
            let reaped = tree.reap()?;
            status = status.or(reaped.ended);
            if let (true, Some(status)) = (reaped.stage, status) {
                take_deserted_terminal();
                return Ok(status);
            }
            std::thread::sleep(pause);
            // One that hangs may do so for hours.
            pause = if reaped.ended.is_some() { PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        }
    }
}

/// The process that others take for semrun.
pub(crate) enum FrontProcess {
    /// This very process.
    Itself,
    Guardian(GuardianLink),
}

/// The worker's end of the connection to its guardian.
pub(crate) struct GuardianLink {
    fd: OwnedFd,
    timer: Timer,
    /// The same, once a runtime watches it.
    watched: Option<AsyncFd<OwnedFd>>,
    /// Whether the guardian has the permit's descriptor.
    keeps: bool,
}

/// What the guardian has to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GuardianEvent {
    /// It was asked to stop and did not, because no shell controls its process group.
    NotStopped,
    /// It was killed.
    Vanished,
}

impl FrontProcess {
    /// To be called within a runtime, before anything else.
    pub(crate) fn listen(&mut self) -> io::Result<()> {
        if let Self::Guardian(link) = self {
            link.watched = Some(watch(link.fd.try_clone()?, Interest::READABLE)?);
        }
        Ok(())
    }

    /// Stops it, and this process with it, and returns when it is continued.
    pub(crate) fn stop_and_wait(&self, whom: StopTarget) {
        match self {
            Self::Itself => drop(signals::stop(whom)),
            Self::Guardian(link) => {
                link.say(of(whom), 0);
                let mut ready = [PollFd::new(&link.fd, PollFlags::IN)];
                while poll(&mut ready, None) == Err(Errno::INTR) {}
                // `told` reports a dead guardian.
                let mut answer = [0];
                let _ = read(&link.fd, &mut answer);
            }
        }
    }

    /// Stops it. False: it did not stop, because no shell controls our process group. A guardian
    /// says so later, with [`FrontProcess::next_event`].
    pub(crate) fn stop(&self, whom: StopTarget) -> bool {
        match self {
            Self::Itself => signals::stop(whom),
            Self::Guardian(link) => {
                link.say(of(whom), 0);
                true
            }
        }
    }

    /// The next thing that the guardian has to tell. Cancel-safe.
    pub(crate) async fn next_event(&self) -> GuardianEvent {
        let Self::Guardian(GuardianLink { watched: Some(fd), .. }) = self else {
            return std::future::pending().await;
        };
        loop {
            let Ok(mut ready) = fd.readable().await else { return GuardianEvent::Vanished };
            let mut answer = [0];
            match ready.try_io(|fd| Ok(read(fd, &mut answer)?)) {
                Ok(Ok(1)) if answer[0] == NOT_STOPPED => return GuardianEvent::NotStopped,
                // It was stopped, and the signal that continued it is told as all signals are.
                Ok(Ok(1)) | Err(_) => {}
                Ok(_) => return GuardianEvent::Vanished,
            }
        }
    }

    /// Makes the guardian keep the permit's descriptor until nothing is left of the command:
    /// processes of the command may have closed it, and this process may die.
    pub(crate) fn keep_open(&self, permit: BorrowedFd<'_>) -> io::Result<()> {
        let Self::Guardian(link @ GuardianLink { keeps: false, .. }) = self else { return Ok(()) };
        let descriptors = [permit];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut brings = SendAncillaryBuffer::new(&mut space);
        brings.push(SendAncillaryMessage::ScmRights(&descriptors));
        match sendmsg(&link.fd, &[IoSlice::new(&[KEEP, 0])], &mut brings, SendFlags::NOSIGNAL) {
            // `told` reports a dead guardian.
            Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// By when the guardian has to kill the tree; none: not at all.
    pub(crate) fn kills_at(&self, moment: Option<Moment>) -> io::Result<()> {
        match self {
            Self::Itself => Ok(()),
            Self::Guardian(link) => link.timer.set(moment),
        }
    }

    /// There is nothing left that the guardian would have to do, but to end like this.
    pub(crate) fn done(&self, end: ProcessEnd) {
        if let Self::Guardian(link) = self {
            let number = |signal: Signal| u8::try_from(signal.as_raw()).unwrap_or(0);
            match end {
                ProcessEnd::Reraised(signal) => link.say(RERAISE, number(signal)),
                ProcessEnd::Signalled(signal) => link.say(SIGNALLED, number(signal)),
                ProcessEnd::Code(code) => link.say(EXITED, code),
            }
        }
    }

    /// There is nothing left but to say what went wrong, which this process is about to do.
    pub(crate) fn failed(&self) {
        if let Self::Guardian(link) = self {
            link.say(FAILED, 0);
        }
    }
}

impl GuardianLink {
    /// `told` reports a dead guardian.
    fn say(&self, what: u8, value: u8) {
        let said = [what, value];
        let _ = rustix::net::send(self.fd.as_fd(), &said, rustix::net::SendFlags::NOSIGNAL);
    }
}

fn of(whom: StopTarget) -> u8 {
    match whom {
        StopTarget::Semrun => STOP_SEMRUN,
        StopTarget::Group => STOP_GROUP,
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_a_worker_said_last_counts_also_if_it_did_not_hear_what_was_said_to_it() {
        let mut child = Command::new("true").spawn().unwrap();
        let worker = Pid::from_child(&child);
        // It stays a zombie, to be waited for later.
        waitid(WaitId::Pid(worker), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        let (link, theirs) = connected().unwrap();
        write(&link, &[STOPPED]).unwrap();
        write(&theirs, &[EXITED, 3]).unwrap();
        drop(theirs);
        let timer = Timer::new().unwrap();
        let guardian = Guardian { worker, strangers: Vec::new(), link, timer, permit: None };
        let watched = guardian.watch(|_| {}).unwrap();
        child.wait().expect_err("the guardian has collected it");
        assert!(matches!(watched, WorkerEnd::Done(ProcessEnd::Code(3))), "{watched:?}");
    }
}
