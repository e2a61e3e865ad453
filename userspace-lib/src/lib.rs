//! Start programs through the Linux *spawn template* system calls, or as [`std::process::Command`] does where the kernel
//! has none.
//!
//! A [`Command`] is made and used like that of the standard library, with more to say: descriptors at any number, terminal,
//! limits, scheduling, cgroup and the rest of what people fall back to `fork` for. [`Command::spawn`] returns a [`Child`],
//! which owns the process's pidfd. A failure names the [`Step`] that failed.
//!
//! ```
//! use spawn_template::Command;
//!
//! # fn main() -> Result<(), spawn_template::Error> {
//! let output = Command::new("echo").arg("hello").output()?;
//! assert_eq!(output.stdout, b"hello\n");
//! # Ok(())
//! # }
//! ```
//!
//! A [`Template`] is a file descriptor that keeps one opened executable and its parsed ELF metadata in the kernel. A
//! `Command` that is given a name or path takes one from the process-wide [`cache`]; who starts the same program often can
//! hold it, and [`Command::prepare`] the arguments as well:
//!
//! ```
//! use spawn_template::{Command, Template};
//!
//! # fn main() -> Result<(), spawn_template::Error> {
//! let test = Template::open("/usr/bin/test")?;
//! let mut command = Command::new(&test);
//! let prepared = command.args(["-d", "/"]).prepare()?;
//! for _ in 0..3 {
//!     let mut child = prepared.spawn()?;
//!     assert!(child.wait()?.success());
//!     println!("started by {}", child.via());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Kernels with and without the calls
//!
//! The calls need a kernel with this project's patches and its module loaded; [`is_supported`] tells. Everywhere else, and
//! for programs that cannot be templates (scripts), the same steps are done by fork and exec, in the way of
//! `posix_spawn(3)`: without a copy of the caller's memory. [`Child::via`] tells which it was and why, and [`Mode`]
//! chooses; `SPAWN_TEMPLATE_REQUIRED=1` in the environment makes every silent fallback an error. What differs:
//!
//! - A template of the kernel can be used only with the credentials that it was made with (`EACCES`).
//! - Where an action's flags are wrong in a way that only `openat2(2)` knows, the stage is [`Stage::Action`], not
//!   [`Stage::Arguments`].
//! - An `O_PATH` descriptor of each executable stands for the template; [`Template::stats`] is not available.
//! - It needs Linux 5.11.
//!
//! Only x86-64 Linux has the calls; on any other target this crate does not compile.
//!
//! # Differences from `std::process::Command`
//!
//! - **Descriptors.** The child gets 0, 1 and 2 as far as they are open in the caller, and what the command places. Others
//!   stay behind, whether they are close-on-exec or not; see [`Command::inherit_fds`].
//! - **Borrowing.** A descriptor can be given by reference, so `Command` has a lifetime; one that only takes owned things is
//!   a `Command<'static>`.
//! - **`&self`.** Starting does not change the command, which can be shared between threads and cloned.
//! - **Environment.** It is read as the C library reads it, without a lock: nothing may change the environment of this
//!   process while another thread starts one, which [`std::env::set_var`] asks for in any case.
//! - **Errors** are [`Error`], which converts to [`std::io::Error`] with the same `errno`.
//! - [`Command::pre_exec`] takes a `Fn`, and forces fork and exec.
//!
//! All features, with their counterparts in `std`, tokio and `posix_spawn`, are in `PARITY.md`.

/// The examples of the project's README and of this crate's compile and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(not(all(target_os = "linux", target_arch = "x86_64", target_pointer_width = "64")))]
compile_error!("spawn-template: the spawn template system calls exist on x86-64 Linux only");

mod action;
pub mod cache;
mod child;
mod command;
mod environment;
mod error;
mod executable;
mod fdinfo;
mod fork_exec;
mod plan;
mod program;
pub mod raw;
pub mod search;
mod signal;
mod stdio;
mod step;
pub mod sys;
mod template;
#[cfg(feature = "tokio")]
pub mod tokio;
pub mod uapi;
mod via;

pub use action::{Action, ActionPath, ChildFd, Fd, Open, Resource, SchedAttr, Scheduler};
pub use child::Child;
pub use command::{Command, Prepared};
pub use error::{Call, Error, InvalidInput};
pub use fdinfo::Stats;
pub use program::Program;
pub use raw::Stage;
pub use signal::SignalSet;
pub use std::process::{ExitStatus, Output};
pub use stdio::Stdio;
pub use step::Step;
pub use template::{Template, TemplateOptions};
pub use via::{Mode, Reason, Via};

/// Whether this kernel has the spawn template system calls, with the module that supplies them loaded.
///
/// Asks with a `spawn_template_create` that is too short to be valid: `EINVAL` means yes; `ENOSYS`, or whatever a
/// seccomp filter answers, means no. The answer can change while the program runs, when the module is loaded or
/// unloaded.
pub fn is_supported() -> bool {
    // SAFETY: a null pointer with size 0 gives the kernel nothing to read.
    let answer = unsafe { sys::spawn_template_create(std::ptr::null(), 0) };
    matches!(answer, Err(error) if error.raw_os_error() == Some(libc::EINVAL))
}
