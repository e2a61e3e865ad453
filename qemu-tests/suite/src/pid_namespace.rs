//! A caller whose next child is the first process of a new PID namespace: a spawn that cannot be leaves that place free.

use std::fs;

use crate::failing::{Stage, fields};
use crate::harness::{Outcome, in_worker};
use crate::os::{self, Status};
use crate::template::{Folder, Template, set_mode};
use crate::{same, tests};

tests!("pid_namespace": changed_program, replaced_program, first_child_is_init);

/// Changes a program after its template was made; the spawn is ESTALE, and the next one, by a new template or by fork,
/// is the namespace's first process.
fn stale(change: fn(&str) -> std::io::Result<()>) -> Outcome {
    let folder = Folder::tmp("pid-namespace")?;
    let path = folder.copy("nothing")?;
    for (what, forks) in [("a new template", false), ("fork", true)] {
        in_worker(|| {
            let template = Template::path(&path)?;
            change(&path)?;
            os::unshare(libc::CLONE_NEWPID)?;
            let (child, result) = template.spawn().report();
            same!(child.map(drop).map_err(|e| e.raw_os_error()), Err(Some(libc::ESTALE)), "the stale template");
            same!(fields(&result), (Stage::Identity as u32, -1, libc::ESTALE, 0), "report");
            if forks {
                let pid = os::fork()?;
                if pid == 0 {
                    os::exit_now(i32::from(std::process::id() != 1));
                }
                same!(os::waitpid(pid, 0)?.1, Status::Exited(0), "{what}");
            } else {
                same!(Template::path(&path)?.status()?, Status::Exited(0), "{what}");
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn changed_program() -> Outcome {
    stale(|path| set_mode(path, if fs::metadata(path)?.permissions().readonly() { 0o755 } else { 0o555 }))
}

fn replaced_program() -> Outcome {
    stale(|path| {
        fs::copy(path, format!("{path}.new"))?;
        fs::rename(format!("{path}.new"), path)
    })
}

/// A good spawn is the namespace's first process, after which there can be no other.
fn first_child_is_init() -> Outcome {
    in_worker(|| {
        os::unshare(libc::CLONE_NEWPID)?;
        let template = Template::child("nothing")?;
        same!(template.status()?, Status::Exited(0), "the first process");
        crate::harness::refused("one after the first has ended", template.status(), libc::ENOMEM)
    })
}
