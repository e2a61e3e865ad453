//! Machines of two nodes, where the kernel moves memory to who uses it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::harness::{Outcome, Stop, in_worker};
use crate::os::{self, Status};
use crate::template::{Folder, Open, Template, set_mode};
use crate::{same, tests};

tests!("numa": balancing_while_actions_run);

/// No more symbolic links are followed than 40.
const LINKS: usize = 39;
/// As many as there can be.
const ACTIONS: usize = 256;

/// A child that has used a second of processor time is to have its memory looked through. That comes due while it opens
/// something, and is done when the open is over.
fn balancing_while_actions_run() -> Outcome {
    if !Path::new("/sys/devices/system/node/node1").exists() {
        return Err(Stop::Skipped("there is one node only".into()));
    }
    same!(fs::read_to_string("/proc/sys/kernel/numa_balancing")?.trim(), "1", "NUMA balancing");
    let folder = Folder::tmp("numa")?;
    set_mode(folder.path(), 0o777)?;
    in_worker(|| {
        os::become_user(crate::attack::USER)?;
        // Each link leads to the one before by as long a path as there can be.
        let mut name = "end".to_owned();
        fs::create_dir(folder.join(&name))?;
        for link in 0..LINKS {
            let target = format!("{}{name}", "./".repeat(2030));
            name = format!("link{link}");
            symlink(target, folder.join(&name))?;
        }
        let open = Open::new(folder.join(&name), libc::O_RDONLY | libc::O_DIRECTORY, 5);
        let template = Template::child("nothing")?;
        let mut spawn = template.spawn();
        for _ in 0..ACTIONS {
            spawn = spawn.open(open.clone());
        }
        same!(spawn.status()?, Status::Exited(0), "status");
        Ok(())
    })
}
