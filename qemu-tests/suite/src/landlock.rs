//! Landlock: a domain that forbids execution forbids it to a spawn as to execve, and the child is in the caller's domain.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::failing::{Failing, Failure, Stage};
use crate::harness::{Outcome, Stop, in_worker, refused};
use crate::os::{self, Status};
use crate::template::{Template, child};
use crate::{ensure, same, tests};

tests!("landlock": everything_denied, allowed_folder, interpreter_denied, child_is_in_the_domain, template_made_inside);

/// `LANDLOCK_ACCESS_FS_EXECUTE`
const EXECUTE: u64 = 1;

/// Where the children lie.
const CHILDREN: &str = "/payload/children";

/// Makes this thread unable to execute anything but what lies beneath these folders, for good.
pub fn restrict(folders: &[&str]) -> Outcome {
    let handled = EXECUTE;
    // SAFETY: the attributes are 8 bytes, live and initialized.
    let fd = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const handled, 8, 0) };
    if fd < 0 {
        return Err(Stop::Skipped(format!("no Landlock in this kernel: {}", io::Error::last_os_error())));
    }
    // SAFETY: the kernel has just returned this descriptor.
    let rules = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    for folder in folders {
        let folder = File::open(folder)?;
        // struct landlock_path_beneath_attr is packed: 8 bytes of access rights and 4 of descriptor.
        let mut beneath = [0u8; 12];
        beneath[..8].copy_from_slice(&EXECUTE.to_le_bytes());
        beneath[8..].copy_from_slice(&folder.as_raw_fd().to_le_bytes());
        let (fd, attributes) = (rules.as_raw_fd(), beneath.as_ptr());
        // SAFETY: the attributes are live and as long as those of LANDLOCK_RULE_PATH_BENEATH (1) are.
        let result = unsafe { libc::syscall(libc::SYS_landlock_add_rule, fd, 1, attributes, 0) };
        ensure!(result == 0, "landlock_add_rule: {}", io::Error::last_os_error());
    }
    // SAFETY: the call takes numbers.
    let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0) };
    ensure!(result == 0, "landlock_restrict_self: {}", io::Error::last_os_error());
    Ok(())
}

/// The error of execve in a forked child.
fn execve_error(path: &str) -> Outcome<i32> {
    let path = os::c_path(path);
    let pid = os::fork()?;
    if pid == 0 {
        os::exit_now(os::execve(&path, &[c"child".to_owned()], &[]).raw_os_error().unwrap_or(0));
    }
    let status = os::waitpid(pid, 0)?.1;
    // Where SIGCHLD is blocked this one is not to be taken for a spawn's.
    os::take_sigchld(0)?;
    match status {
        Status::Exited(code) => Ok(code),
        status => Err(crate::harness::failed(format!("{status:?}"))),
    }
}

/// Wants a spawn refused with the error that execve gives, at the stage EXEC.
#[track_caller]
fn refused_as_by_execve(path: &str, template: &Template) -> Outcome {
    let error = execve_error(path)?;
    same!(error, libc::EACCES, "error of execve");
    let mut failing = Failing::new()?;
    failing.both("a spawn", &template.spawn(), Failure::at(Stage::Exec, error));
    failing.finish()
}

fn everything_denied() -> Outcome {
    in_worker(|| {
        let file = File::open(child("nothing"))?;
        let (by_path, by_fd) = (Template::child("nothing")?, Template::of_fd(&file)?);
        same!(by_path.status()?, Status::Exited(0), "status outside of a domain");
        restrict(&[])?;
        refused_as_by_execve(&child("nothing"), &by_path)?;
        refused_as_by_execve(&child("nothing"), &by_fd)
    })
}

fn allowed_folder() -> Outcome {
    in_worker(|| {
        let (template, other) = (Template::child("nothing")?, Template::path("/bin/true")?);
        restrict(&[CHILDREN])?;
        same!(template.status()?, Status::Exited(0), "status of an allowed program");
        refused_as_by_execve("/bin/true", &other)
    })
}

/// The program may be executed, its dynamic loader may not.
fn interpreter_denied() -> Outcome {
    in_worker(|| {
        let template = Template::child("dynamic0")?;
        restrict(&[CHILDREN])?;
        refused_as_by_execve(&child("dynamic0"), &template)
    })
}

/// A shell that was spawned cannot execute what its parent could not.
fn child_is_in_the_domain() -> Outcome {
    in_worker(|| {
        let shell = Template::path("/bin/sh")?;
        let script = format!("{}; echo $?", child("nothing"));
        let run = || shell.spawn().argv(["sh", "-c", &script]).act(crate::template::Act::Close(2)).output();
        same!(run()?.1, b"0\n", "output outside of a domain");
        restrict(&["/usr", "/bin", "/lib", "/lib64"])?;
        same!(run()?.1, b"126\n", "output inside of a domain");
        Ok(())
    })
}

fn template_made_inside() -> Outcome {
    in_worker(|| {
        restrict(&["/usr", "/bin", "/lib", "/lib64"])?;
        refused("a template of what may not be executed", Template::child("nothing"), libc::EACCES)?;
        same!(Template::path("/bin/true")?.status()?, Status::Exited(0), "status of an allowed program");
        Ok(())
    })
}
