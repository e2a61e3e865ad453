//! Smack, where it is active: labels of files and processes bear on a spawn as on execve.

use std::fs;
use std::io;

use crate::harness::{Outcome, Stop, in_worker, refused};
use crate::os::{self, Status};
use crate::template::{Folder, Template, set_mode};
use crate::twice::Twice;
use crate::{same, tests};

tests!("smack": other_label, label_of_the_executable, label_is_inherited, executable_out_of_reach);

/// Where a process sees and changes its label.
const LABEL: &str = "/proc/self/attr/smack/current";

/// Skips the test on a kernel where Smack is not active.
pub fn needs_smack() -> Outcome {
    let active = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    if active.split(',').any(|name| name.trim() == "smack") {
        Ok(())
    } else {
        Err(Stop::Skipped(format!("Smack is not among the active security modules: {}", active.trim())))
    }
}

/// Gives this process another label.
fn relabel(label: &str) -> io::Result<()> {
    fs::write(LABEL, label)
}

/// After a change of label the old template is not this process's any more.
fn other_label() -> Outcome {
    needs_smack()?;
    let template = Template::child("nothing")?;
    in_worker(|| {
        same!(template.status()?, Status::Exited(0), "status before");
        relabel("Other")?;
        refused("with another label", template.status(), libc::EACCES)?;
        same!(Template::child("nothing")?.status()?, Status::Exited(0), "status of a template of its own");
        Ok(())
    })?;
    same!(template.status()?, Status::Exited(0), "status for the creator");
    Ok(())
}

/// SMACK64EXEC gives the child a label, and makes it a program of more or other rights.
fn label_of_the_executable() -> Outcome {
    needs_smack()?;
    let folder = Folder::new("/var/tmp", "smack")?;
    set_mode(folder.path(), 0o755)?;
    let path = folder.copy("report-static")?;
    os::setxattr(&path, c"security.SMACK64EXEC", b"Executed")?;
    let twice = Twice::run(&path)?;
    twice.compare()?;
    twice.saw("attr/smack/current", "Executed")?;
    twice.saw("auxv.23", "0x1")?;
    // Not with no_new_privs.
    in_worker(|| {
        os::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)?;
        let (template, c_path) = (Template::path(&path)?, os::c_path(&path));
        let pid = os::fork()?;
        if pid == 0 {
            os::exit_now(os::execve(&c_path, &[c"child".to_owned()], &[]).raw_os_error().unwrap_or(0));
        }
        match os::waitpid(pid, 0)?.1 {
            Status::Exited(0) => Twice::run(&path)?.compare(),
            Status::Exited(error) => refused("a spawn with no_new_privs", template.status(), error),
            status => Err(crate::harness::failed(format!("execve: {status:?}"))),
        }
    })
}

fn label_is_inherited() -> Outcome {
    needs_smack()?;
    in_worker(|| {
        relabel("Other")?;
        let twice = Twice::run(&crate::template::child("report"))?;
        twice.compare()?;
        twice.saw("attr/smack/current", "Other")
    })
}

/// A process without privileges cannot execute what its label has no access to, by either way.
fn executable_out_of_reach() -> Outcome {
    needs_smack()?;
    let folder = Folder::new("/var/tmp", "smack-secret")?;
    set_mode(folder.path(), 0o755)?;
    let path = folder.copy("nothing")?;
    in_worker(|| {
        relabel("Other")?;
        os::become_user(12345)?;
        let template = Template::path(&path)?;
        same!(template.status()?, Status::Exited(0), "status while it may be executed");
        Ok(())
    })?;
    os::setxattr(&path, c"security.SMACK64", b"Secret")?;
    in_worker(|| {
        relabel("Other")?;
        os::become_user(12345)?;
        refused("a template of it", Template::path(&path), libc::EACCES)?;
        let error = os::execve(&os::c_path(&path), &[c"child".to_owned()], &[]);
        same!(error.raw_os_error(), Some(libc::EACCES), "error of execve");
        Ok(())
    })
}
