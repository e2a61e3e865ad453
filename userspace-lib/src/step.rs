//! The steps of a command, in the order in which the child takes them.

use std::fmt;
use std::os::fd::RawFd;

use crate::Resource;

/// One thing that a [`Command`](crate::Command) asks of the child, as an error names it.
///
/// The order of the variants is the order in which the child takes the steps, however the command was put together:
/// cgroup, session and terminal first, then descriptors, limits, ids, the working directory with the new ids, at last
/// what was added with [`Command::action`](crate::Command::action) in its own order, and the signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Step {
    /// [`Command::cgroup`](crate::Command::cgroup)
    Cgroup,
    /// [`Command::setsid`](crate::Command::setsid)
    Setsid,
    /// [`Command::process_group`](crate::Command::process_group)
    ProcessGroup,
    /// [`Command::controlling_terminal`](crate::Command::controlling_terminal)
    ControllingTerminal,
    /// [`Command::foreground`](crate::Command::foreground)
    Foreground,
    /// [`Command::stdin`](crate::Command::stdin), [`stdout`](crate::Command::stdout) and
    /// [`stderr`](crate::Command::stderr) as 0, 1 and 2, and [`Command::fd`](crate::Command::fd)
    Fd(RawFd),
    /// [`Command::scheduler`](crate::Command::scheduler) and [`Command::nice`](crate::Command::nice)
    Scheduler,
    /// [`Command::rlimit`](crate::Command::rlimit)
    Rlimit(Resource),
    /// [`Command::umask`](crate::Command::umask)
    Umask,
    /// [`Command::groups`](crate::Command::groups)
    Groups,
    /// [`Command::gid`](crate::Command::gid)
    Gid,
    /// [`Command::uid`](crate::Command::uid)
    Uid,
    /// [`Command::reset_ids`](crate::Command::reset_ids)
    ResetIds,
    /// [`Command::no_new_privs`](crate::Command::no_new_privs)
    NoNewPrivs,
    /// [`Command::parent_death_signal`](crate::Command::parent_death_signal)
    ParentDeathSignal,
    /// [`Command::current_dir`](crate::Command::current_dir) and
    /// [`current_dir_fd`](crate::Command::current_dir_fd)
    CurrentDir,
    /// The action with this index among those of [`Command::action`](crate::Command::action)
    Action(usize),
    /// [`Command::sigdefault`](crate::Command::sigdefault)
    Sigdefault,
    /// [`Command::sigignore`](crate::Command::sigignore)
    Sigignore,
    /// [`Command::sigmask`](crate::Command::sigmask)
    Sigmask,
    /// The closure with this index among those of [`Command::pre_exec`](crate::Command::pre_exec)
    PreExec(usize),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Cgroup => "cgroup",
            Step::Setsid => "setsid",
            Step::ProcessGroup => "process_group",
            Step::ControllingTerminal => "controlling_terminal",
            Step::Foreground => "foreground",
            Step::Fd(0) => "stdin",
            Step::Fd(1) => "stdout",
            Step::Fd(2) => "stderr",
            Step::Fd(fd) => return write!(f, "fd {fd}"),
            Step::Scheduler => "scheduler",
            Step::Rlimit(resource) => return write!(f, "rlimit {resource:?}"),
            Step::Umask => "umask",
            Step::Groups => "groups",
            Step::Gid => "gid",
            Step::Uid => "uid",
            Step::ResetIds => "reset_ids",
            Step::NoNewPrivs => "no_new_privs",
            Step::ParentDeathSignal => "parent_death_signal",
            Step::CurrentDir => "current_dir",
            Step::Action(index) => return write!(f, "action {index}"),
            Step::Sigdefault => "sigdefault",
            Step::Sigignore => "sigignore",
            Step::Sigmask => "sigmask",
            Step::PreExec(index) => return write!(f, "pre_exec {index}"),
        })
    }
}
