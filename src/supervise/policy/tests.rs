use super::*;

fn rules(orphans: Orphans) -> Rules {
    Rules { orphans, foreground: false, stop_signal: Signal::USR1, on_lost: OnLost::Kill }
}

fn policy() -> Policy {
    Policy::new(rules(Orphans::Leave))
}

fn in_foreground() -> Policy {
    Policy::new(Rules { foreground: true, ..rules(Orphans::Leave) })
}

fn exited(code: i32) -> PolicyEvent {
    PolicyEvent::Ended(CommandEnding { code: Some(code), interrupted: false, nested: false })
}

fn sent(signal: Signal) -> PolicyEvent {
    PolicyEvent::Arrived {
        arrival: Arrival { signal, origin: Origin::Process },
        terminal: Terminal::Ours,
    }
}

fn typed(signal: Signal) -> PolicyEvent {
    PolicyEvent::Arrived {
        arrival: Arrival { signal, origin: Origin::Kernel },
        terminal: Terminal::Ours,
    }
}

#[test]
fn term_and_hup_stop_the_command_once_and_are_forwarded_again() {
    for signal in [Signal::TERM, Signal::HUP] {
        let mut policy = policy();
        assert_eq!(policy.on(sent(signal)), Action::Stop(Some(signal)));
        assert_eq!(policy.on(sent(Signal::TERM)), Action::Forward(Signal::TERM));
        assert_eq!(policy.on(PolicyEvent::GraceOver), Action::Kill);
    }
}

#[test]
fn other_signals_are_forwarded_and_nothing_more() {
    use Signal as S;
    for signal in [S::INT, S::QUIT, S::USR1, S::USR2, S::WINCH, S::TSTP] {
        let mut policy = policy();
        assert_eq!(policy.on(sent(signal)), Action::Forward(signal));
        assert_eq!(policy.on(typed(signal)), Action::Forward(signal));
        assert_eq!(policy.on(exited(0)), Action::Finish, "nothing is being stopped");
    }
}

#[test]
fn a_command_that_is_stopped_takes_its_orphans_with_it_whatever_was_chosen() {
    for orphans in [Orphans::Leave, Orphans::Wait, Orphans::Kill] {
        let mut policy = Policy::new(rules(orphans));
        policy.on(sent(Signal::TERM));
        assert_eq!(policy.on(exited(0)), Action::StopOrphans(Signal::TERM));
        assert_eq!(policy.on(PolicyEvent::Shrunk), Action::StopOrphans(Signal::TERM));
        assert_eq!(policy.on(PolicyEvent::Gone), Action::Finish);
    }
}

#[test]
fn a_command_that_ends_by_itself_leaves_its_orphans_to_the_choice() {
    let ended = |orphans| Policy::new(rules(orphans)).on(exited(0));
    assert_eq!(ended(Orphans::Leave), Action::Finish);
    assert_eq!(ended(Orphans::Wait), Action::Nothing);
    assert_eq!(ended(Orphans::Kill), Action::Stop(Some(Signal::USR1)));
}

#[test]
fn a_command_that_was_stopped_by_others_takes_its_orphans_with_it_as_well() {
    let killed = CommandEnding { code: None, interrupted: false, nested: false };
    let interrupted = CommandEnding { code: Some(1), interrupted: true, nested: false };
    let by_shell = |number| CommandEnding { code: Some(128 + number), ..killed };
    for orphans in [Orphans::Leave, Orphans::Wait, Orphans::Kill] {
        let ended = |ending| Policy::new(rules(orphans)).on(PolicyEvent::Ended(ending));
        for stopped in [killed, interrupted].into_iter().chain([1, 2, 3, 9, 15].map(by_shell)) {
            assert_eq!(ended(stopped), Action::Stop(Some(Signal::USR1)), "{stopped:?}");
        }
    }
    let ended = |ending| policy().on(PolicyEvent::Ended(ending));
    // One that was interrupted and put everything in order, and one that failed by itself.
    assert_eq!(ended(CommandEnding { code: Some(0), ..interrupted }), Action::Finish);
    for code in [1, 2, 128, 128 + 6, 128 + 10, 255] {
        assert_eq!(policy().on(exited(code)), Action::Finish, "{code}");
    }
}

#[test]
fn a_command_that_exits_keeps_its_permit_for_semruns_that_are_nested_in_it() {
    let exited = CommandEnding { code: Some(0), interrupted: false, nested: true };
    let mut policy = policy();
    assert_eq!(policy.on(PolicyEvent::NestedEnded), Action::Nothing);
    assert_eq!(policy.on(PolicyEvent::Ended(exited)), Action::Nothing);
    assert_eq!(policy.on(PolicyEvent::Shrunk), Action::Nothing);
    assert_eq!(policy.on(PolicyEvent::NestedEnded), Action::Finish);
    let mut policy = Policy::new(rules(Orphans::Wait));
    assert_eq!(policy.on(PolicyEvent::Ended(exited)), Action::Nothing);
    assert_eq!(policy.on(PolicyEvent::NestedEnded), Action::Nothing, "others may be left");
    assert_eq!(policy.on(PolicyEvent::Gone), Action::Finish);
}

#[test]
fn waiting_for_orphans_can_be_ended_by_term() {
    let mut policy = Policy::new(rules(Orphans::Wait));
    policy.on(exited(0));
    assert_eq!(policy.on(PolicyEvent::Shrunk), Action::Nothing);
    assert_eq!(policy.on(sent(Signal::TERM)), Action::Stop(Some(Signal::TERM)));
    assert_eq!(policy.on(PolicyEvent::Gone), Action::Finish);
}

#[test]
fn in_the_foreground_what_was_typed_is_not_forwarded_twice() {
    assert_eq!(in_foreground().on(typed(Signal::INT)), Action::Nothing);
    assert_eq!(in_foreground().on(typed(Signal::HUP)), Action::Stop(None));
    assert_eq!(in_foreground().on(typed(Signal::TSTP)), Action::SuspendAlone(None));
    assert_eq!(in_foreground().on(sent(Signal::INT)), Action::Forward(Signal::INT));
}

#[test]
fn a_stopped_command_suspends_us_only_where_a_shell_can_see_it() {
    use Terminal::{Commands, Elsewhere, None, Ours};
    let stopped = |signal, terminal| policy().on(PolicyEvent::Stopped { signal, terminal });
    // Ctrl-Z in the foreground; SIGSTOP there would leave the terminal to a stopped job.
    assert_eq!(stopped(Signal::TSTP, Commands), Action::Suspend);
    assert_eq!(stopped(Signal::STOP, Commands), Action::Suspend);
    // Started without the terminal and asking for it.
    assert_eq!(stopped(Signal::TTIN, Ours), Action::Give);
    assert_eq!(stopped(Signal::TTOU, Ours), Action::Give);
    assert_eq!(stopped(Signal::TTIN, Elsewhere), Action::SuspendAndGive);
    // Ctrl-Z in a pipeline, where our group kept the terminal.
    assert_eq!(stopped(Signal::TSTP, Ours), Action::Suspend);
    // A job is frozen from outside.
    assert_eq!(stopped(Signal::STOP, Elsewhere), Action::Nothing);
    assert_eq!(stopped(Signal::TSTP, None), Action::Nothing);
}

#[test]
fn a_command_that_is_told_to_end_may_still_ask_for_the_terminal() {
    let mut policy = policy();
    policy.on(sent(Signal::TERM));
    let mut stopped = |signal, terminal| policy.on(PolicyEvent::Stopped { signal, terminal });
    assert_eq!(stopped(Signal::TTIN, Terminal::Ours), Action::Give);
    assert_eq!(stopped(Signal::TTOU, Terminal::Elsewhere), Action::GiveLater);
    assert_eq!(stopped(Signal::TSTP, Terminal::Commands), Action::Nothing);
}

#[test]
fn a_neighbour_that_asks_for_the_terminal_gets_it_or_stops_the_job() {
    let asks = |terminal| {
        let arrival = Arrival { signal: Signal::TTIN, origin: Origin::Kernel };
        policy().on(PolicyEvent::Arrived { arrival, terminal })
    };
    assert_eq!(asks(Terminal::Commands), Action::Lend);
    assert_eq!(asks(Terminal::Elsewhere), Action::Forward(Signal::TSTP));
}

#[test]
fn a_lost_permit_stops_the_command_once_unless_it_may_go_on() {
    let mut policy = policy();
    assert_eq!(policy.on(PolicyEvent::Lost), Action::Stop(Some(Signal::USR1)));
    assert_eq!(policy.on(PolicyEvent::Lost), Action::Nothing);
    assert_eq!(policy.on(exited(0)), Action::StopOrphans(Signal::USR1));
    let rules = Rules { on_lost: OnLost::Continue, ..rules(Orphans::Leave) };
    let mut policy = Policy::new(rules);
    assert_eq!(policy.on(PolicyEvent::Lost), Action::Nothing);
    assert_eq!(policy.on(exited(0)), Action::Finish);
}

#[test]
fn a_command_that_has_run_too_long_is_stopped_whatever_becomes_of_a_lost_one() {
    for on_lost in [OnLost::Kill, OnLost::Continue] {
        let mut policy = Policy::new(Rules { on_lost, ..rules(Orphans::Leave) });
        assert_eq!(policy.on(PolicyEvent::RanTooLong), Action::Stop(Some(Signal::USR1)));
        assert_eq!(policy.on(PolicyEvent::Lost), Action::Nothing);
        assert_eq!(policy.on(exited(0)), Action::StopOrphans(Signal::USR1));
    }
}

#[test]
fn a_permit_that_was_just_taken_leaves_no_time_to_end() {
    let mut policy = policy();
    assert_eq!(policy.on(PolicyEvent::Taken), Action::Kill);
    assert_eq!(policy.on(exited(0)), Action::StopOrphans(Signal::KILL));
    let rules = Rules { on_lost: OnLost::Continue, ..rules(Orphans::Leave) };
    assert_eq!(Policy::new(rules).on(PolicyEvent::Taken), Action::Nothing);
}

#[test]
fn a_semrun_that_is_killed_takes_everything_with_it() {
    let mut policy = policy();
    assert_eq!(policy.on(PolicyEvent::Abandoned), Action::Kill);
    assert_eq!(policy.on(exited(0)), Action::StopOrphans(Signal::KILL));
}

#[test]
fn where_no_process_can_continue_us_the_command_goes_on_if_it_may() {
    let not_suspended = |terminal| policy().on(PolicyEvent::NotSuspended { terminal });
    assert_eq!(not_suspended(Terminal::Ours), Action::Resume);
    assert_eq!(not_suspended(Terminal::None), Action::Resume);
    assert_eq!(not_suspended(Terminal::Elsewhere), Action::Nothing);
}

#[test]
fn fg_and_bg_resume_the_command() {
    assert_eq!(policy().on(sent(Signal::CONT)), Action::Resume);
}

#[test]
fn in_the_foreground_fg_is_left_to_the_shell() {
    let continued = |terminal| {
        let arrival = Arrival { signal: Signal::CONT, origin: Origin::Process };
        PolicyEvent::Arrived { arrival, terminal }
    };
    for stops in [typed(Signal::TSTP), sent(Signal::TSTP), sent(Signal::TTIN)] {
        let mut policy = in_foreground();
        policy.on(stops);
        assert_eq!(policy.on(continued(Terminal::Ours)), Action::Nothing);
        // Whatever stopped the command now was not the terminal.
        assert_eq!(policy.on(continued(Terminal::Ours)), Action::Resume);
        // `bg`, or a CONT for us alone.
        policy.on(stops);
        assert_eq!(policy.on(continued(Terminal::Elsewhere)), Action::Resume);
        policy.on(stops);
        policy.on(PolicyEvent::NotSuspended { terminal: Terminal::Ours });
        assert_eq!(policy.on(continued(Terminal::Ours)), Action::Resume);
    }
}
