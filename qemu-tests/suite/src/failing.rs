//! Spawns that must fail: with the right errno, a report that names the place, and nothing left behind.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::os::fd::RawFd;

use spawn_template::uapi;

use crate::harness::{Checks, Outcome, open_fds};
use crate::os;
use crate::template::{Child, RawResult, Spawn};

/// How far a spawn came; `enum spawn_template_stage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// The arguments are wrong.
    Arguments = uapi::SPAWN_TEMPLATE_STAGE_ARGUMENTS,
    /// The caller may not use the template, or its file has changed.
    Identity = uapi::SPAWN_TEMPLATE_STAGE_IDENTITY,
    /// The child cannot be made.
    Create = uapi::SPAWN_TEMPLATE_STAGE_CREATE,
    /// An action failed in the child.
    Action = uapi::SPAWN_TEMPLATE_STAGE_ACTION,
    /// The child could not execute the program.
    Exec = uapi::SPAWN_TEMPLATE_STAGE_EXEC,
}

/// Where a spawn must fail, and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The errno.
    pub error: i32,
    /// The stage.
    pub stage: Stage,
    /// Index of the action, or -1.
    pub action: i32,
}

impl Failure {
    /// Of a stage, with no action to blame.
    pub fn at(stage: Stage, error: i32) -> Failure {
        Failure { error, stage, action: -1 }
    }

    /// Of the arguments, with an action that is wrong.
    pub fn wrong(action: i32, error: i32) -> Failure {
        Failure { error, stage: Stage::Arguments, action }
    }

    /// Of an action in the child.
    pub fn action(action: i32, error: i32) -> Failure {
        Failure { error, stage: Stage::Action, action }
    }
}

/// The fields of a report: stage, action, error, reserved.
pub fn fields(result: &RawResult) -> (u32, i32, i32, u32) {
    (result.stage, result.action, result.error, result.reserved)
}

/// The fields that report a success.
pub const SUCCESS: (u32, i32, i32, u32) = (uapi::SPAWN_TEMPLATE_STAGE_NONE, -1, 0, 0);

/// Runs spawns that must fail, and gathers what is wrong with their errors, reports and remains.
pub struct Failing {
    checks: Checks,
    fds: BTreeMap<RawFd, String>,
}

impl Failing {
    /// Starts in a process without children that has opened all the descriptors it needs. Blocks SIGCHLD, to see it.
    pub fn new() -> io::Result<Failing> {
        os::set_sigmask(os::sigbit(libc::SIGCHLD))?;
        // Of children that have come and gone before.
        while os::take_sigchld(0)?.is_some() {}
        Ok(Failing { checks: Checks::default(), fds: open_fds()? })
    }

    /// Runs one of them.
    pub fn spawn(&mut self, what: impl Display, spawn: &Spawn<'_>, failure: Failure) {
        self.judge(what, spawn.report(), failure);
    }

    /// Runs one with these actions, both with and without INHERIT_FDS.
    pub fn both(&mut self, what: impl Display, spawn: &Spawn<'_>, failure: Failure) {
        self.spawn(&what, spawn, failure);
        self.spawn(format!("{what}, inheriting"), &spawn.clone().inherit_fds(), failure);
    }

    /// Judges what [`Spawn::report_changed`] returned.
    pub fn judge(&mut self, what: impl Display, outcome: (io::Result<Child>, RawResult), failure: Failure) {
        let (child, result) = outcome;
        self.checks.refused(&what, child, &[failure.error]);
        let wanted = (failure.stage as u32, failure.action, failure.error, 0);
        if fields(&result) != wanted {
            self.checks.fail(format!("{what}: reported {:?}, not {wanted:?}", fields(&result)));
        }
        self.nothing_left(&what);
    }

    /// Notes what a failed spawn has left behind.
    pub fn nothing_left(&mut self, what: impl Display) {
        match self.remains() {
            Ok(None) => {}
            Ok(Some(remains)) => self.checks.fail(format!("{what}: left {remains}")),
            Err(error) => self.checks.fail(format!("{what}: cannot see what is left: {error}")),
        }
    }

    fn remains(&self) -> io::Result<Option<String>> {
        if os::has_children()? {
            return Ok(Some("a child".to_owned()));
        }
        if let Some(pid) = os::take_sigchld(0)? {
            return Ok(Some(format!("SIGCHLD from {pid}")));
        }
        let fds = open_fds()?;
        Ok((fds != self.fds).then(|| format!("descriptors {fds:?} where {:?} were", self.fds)))
    }

    /// Fails when anything was wrong.
    #[track_caller]
    pub fn finish(self) -> Outcome {
        self.checks.finish()
    }
}
