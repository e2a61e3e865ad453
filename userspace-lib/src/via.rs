//! Which way a process is started.

use std::env;
use std::fmt;
use std::sync::OnceLock;

/// Whether to use the spawn template system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// A template where the kernel and the program allow it, otherwise fork and exec. [`Child::via`](crate::Child::via)
    /// tells which it was.
    ///
    /// With the environment variable `SPAWN_TEMPLATE_REQUIRED` set to something, as this process finds it at the first
    /// spawn, this is [`Mode::Template`].
    #[default]
    Auto,
    /// Fail rather than fall back.
    Template,
    /// Never use the system calls.
    ForkExec,
}

/// How a process was, or will be, started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Via {
    /// By the kernel, from a template.
    Template,
    /// By fork and exec, and why.
    ForkExec(Reason),
}

/// Why a process is not started from a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The kernel has no spawn templates, or does not let this process use them.
    Unsupported,
    /// The program is not one that a template can be made of: a script, or not ELF for x86-64.
    NotElf,
    /// [`Command::pre_exec`](crate::Command::pre_exec) was used.
    PreExec,
    /// The program is named relative to a working directory that the child has yet to change to, or to one that this
    /// process cannot reach from the root.
    RelativePath,
    /// The path is in `/proc` or `/dev/fd`, where it is another file for another process.
    ProcPath,
    /// The search in `PATH` may have to go on after an `open` in the child, which must not be done twice.
    Search,
    /// A seccomp filter, or a tracer that uses one, decides about what the child does, which only a process of its own
    /// can ask.
    Seccomp,
    /// No descriptor is free for the template, or was not in time.
    Descriptors,
    /// The executable changed again and again while it was tried.
    Changing,
    /// [`Mode::ForkExec`] was asked for.
    Requested,
}

impl Mode {
    /// What the mode comes to in this process.
    pub(crate) fn effective(self) -> Self {
        static REQUIRED: OnceLock<bool> = OnceLock::new();
        let required = || env::var_os("SPAWN_TEMPLATE_REQUIRED").is_some_and(|value| !value.is_empty());
        match self {
            Mode::Auto if *REQUIRED.get_or_init(required) => Mode::Template,
            mode => mode,
        }
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Via::Template => f.write_str("template"),
            Via::ForkExec(reason) => write!(f, "fork and exec: {reason}"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Unsupported => "this kernel has no spawn templates",
            Reason::NotElf => "not an ELF program",
            Reason::PreExec => "pre_exec",
            Reason::RelativePath => "the path is relative to a directory of the child, or to one out of reach",
            Reason::ProcPath => "the path is another one for another process",
            Reason::Search => "the search in PATH goes on in the child",
            Reason::Seccomp => "a seccomp filter decides",
            Reason::Descriptors => "no descriptor is free",
            Reason::Changing => "the executable keeps changing",
            Reason::Requested => "asked for",
        })
    }
}
