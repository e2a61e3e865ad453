//! A template whose file's mount changes: it becomes noexec, or goes away.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;

use crate::harness::{Outcome, in_worker, refused};
use crate::os::{self, Status};
use crate::template::{Folder, Template};
use crate::{same, tests};

tests!("mounts":
    noexec_on_tmpfs, noexec_on_ext4, noexec_on_overlay, noexec_of_a_bind_mount_elsewhere, noexec_while_running,
    gone_on_tmpfs, gone_on_ext4, gone_on_overlay, gone_and_mounted_again, mount_namespace_left, moved,
);

/// A mount of its own, in a mount namespace of its own, that holds a program.
struct Mounted {
    /// Where it is mounted.
    folder: Folder,
    /// What it shows or needs.
    _behind: Option<Folder>,
}

/// The file systems under test.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Tmpfs,
    /// A bind mount of a folder on the disk.
    Ext4,
    Overlay,
}

impl Mounted {
    fn new(kind: Kind, name: &str) -> io::Result<Mounted> {
        os::private_mounts()?;
        let folder = Folder::tmp(name)?;
        let behind = match kind {
            Kind::Tmpfs => {
                os::mount("tmpfs", folder.path(), "tmpfs", 0, "")?;
                None
            }
            Kind::Ext4 => {
                let disk = Folder::new("/var/tmp", name)?;
                os::mount(disk.path(), folder.path(), "", libc::MS_BIND, "")?;
                Some(disk)
            }
            Kind::Overlay => {
                let layers = Folder::tmp(&format!("{name}-layers"))?;
                let [lower, upper, work] = ["lower", "upper", "work"].map(|sub| layers.join(sub));
                for sub in [&lower, &upper, &work] {
                    fs::create_dir(sub)?;
                }
                let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
                os::mount("overlay", folder.path(), "overlay", 0, &options)?;
                Some(layers)
            }
        };
        Ok(Mounted { folder, _behind: behind })
    }

    /// Forbids or allows execution on this mount.
    fn noexec(&self, on: bool) -> io::Result<()> {
        let flags = libc::MS_REMOUNT | libc::MS_BIND | if on { libc::MS_NOEXEC } else { 0 };
        os::mount("", self.folder.path(), "", flags, "")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = os::unmount(self.folder.path());
    }
}

/// Templates of the path and of a descriptor, of one program.
fn both(path: &str) -> io::Result<(Template, Template)> {
    Ok((Template::path(path)?, Template::of_fd(&File::open(path)?)?))
}

fn noexec(kind: Kind) -> Outcome {
    in_worker(|| {
        let mounted = Mounted::new(kind, "noexec")?;
        let path = mounted.folder.copy("nothing")?;
        let (by_path, by_fd) = both(&path)?;
        same!((by_path.status()?, by_fd.status()?), (Status::Exited(0), Status::Exited(0)), "status before");
        mounted.noexec(true)?;
        refused("by path, on a noexec mount", by_path.status(), libc::ESTALE)?;
        refused("by fd, on a noexec mount", by_fd.status(), libc::ESTALE)?;
        refused("a new template", Template::path(&path), libc::EACCES)?;
        mounted.noexec(false)?;
        // The file is what it was, and may be executed again.
        same!((by_path.status()?, by_fd.status()?), (Status::Exited(0), Status::Exited(0)), "status afterwards");
        Ok(())
    })
}

fn noexec_on_tmpfs() -> Outcome {
    noexec(Kind::Tmpfs)
}

fn noexec_on_ext4() -> Outcome {
    noexec(Kind::Ext4)
}

fn noexec_on_overlay() -> Outcome {
    noexec(Kind::Overlay)
}

/// Another mount of the same file system is not the template's.
fn noexec_of_a_bind_mount_elsewhere() -> Outcome {
    in_worker(|| {
        let mounted = Mounted::new(Kind::Tmpfs, "noexec-elsewhere")?;
        let path = mounted.folder.copy("nothing")?;
        let elsewhere = Folder::tmp("noexec-elsewhere-bind")?;
        os::mount(mounted.folder.path(), elsewhere.path(), "", libc::MS_BIND, "")?;
        let (by_path, by_fd) = both(&path)?;
        os::mount("", elsewhere.path(), "", libc::MS_REMOUNT | libc::MS_BIND | libc::MS_NOEXEC, "")?;
        let there = Template::path(elsewhere.join("nothing"));
        let here = (by_path.status(), by_fd.status());
        os::unmount(elsewhere.path())?;
        refused("a template on the noexec mount", there, libc::EACCES)?;
        same!((here.0?, here.1?), (Status::Exited(0), Status::Exited(0)), "status on the other mount");
        Ok(())
    })
}

/// Who runs already goes on.
fn noexec_while_running() -> Outcome {
    in_worker(|| {
        let mounted = Mounted::new(Kind::Tmpfs, "noexec-running")?;
        let template = Template::path(mounted.folder.copy("sleep")?)?;
        let running = template.spawn().run()?;
        mounted.noexec(true)?;
        refused("another", template.status(), libc::ESTALE)?;
        os::kill(running.pid, libc::SIGTERM)?;
        same!(running.wait()?, Status::Signaled(libc::SIGTERM), "status of the one that runs");
        Ok(())
    })
}

/// After a lazy unmount the path names nothing. A descriptor keeps its mount, so execveat() of one goes on working, and so
/// does a template of it.
fn gone(kind: Kind) -> Outcome {
    in_worker(|| {
        let mounted = Mounted::new(kind, "gone")?;
        let path = mounted.folder.copy("nothing")?;
        let (by_path, by_fd) = both(&path)?;
        let file = File::open(&path)?;
        same!((by_path.status()?, by_fd.status()?), (Status::Exited(0), Status::Exited(0)), "status before");
        os::unmount(mounted.folder.path())?;
        refused("by path", by_path.status(), libc::ESTALE)?;
        let worker = os::fork()?;
        if worker == 0 {
            os::fexecve(file.as_raw_fd(), &[c"child".to_owned()], &[]);
            os::exit_now(99);
        }
        let traditional = os::waitpid(worker, 0)?.1;
        same!(traditional, Status::Exited(0), "execveat() of a file on the mount that is gone");
        same!(by_fd.status()?, traditional, "by fd");
        refused("by path, again", by_path.status(), libc::ESTALE)?;
        same!((by_path.counts()?, by_fd.counts()?), ((1, 2), (2, 0)), "spawns and failures");
        Ok(())
    })
}

fn gone_on_tmpfs() -> Outcome {
    gone(Kind::Tmpfs)
}

fn gone_on_ext4() -> Outcome {
    gone(Kind::Ext4)
}

fn gone_on_overlay() -> Outcome {
    gone(Kind::Overlay)
}

/// The same file under the same path by way of another mount: the template says ESTALE or runs it, and nothing else.
fn gone_and_mounted_again() -> Outcome {
    in_worker(|| {
        os::private_mounts()?;
        let (disk, folder) = (Folder::new("/var/tmp", "again")?, Folder::tmp("again")?);
        disk.copy("exit-code")?;
        let path = folder.join("exit-code");
        os::mount(disk.path(), folder.path(), "", libc::MS_BIND, "")?;
        let template = Template::path(&path)?;
        os::unmount(folder.path())?;
        refused("unmounted", template.status(), libc::ESTALE)?;
        os::mount(disk.path(), folder.path(), "", libc::MS_BIND, "")?;
        let again = template.spawn().arg("3").status();
        os::unmount(folder.path())?;
        match again {
            Err(e) if e.raw_os_error() == Some(libc::ESTALE) => Ok(()),
            status => {
                same!(status?, Status::Exited(3), "status once it is mounted again");
                Ok(())
            }
        }
    })
}

/// In another mount namespace the path may name something else; there the template is stale.
fn mount_namespace_left() -> Outcome {
    in_worker(|| {
        let mounted = Mounted::new(Kind::Tmpfs, "namespace")?;
        let path = mounted.folder.copy("nothing")?;
        let template = Template::path(&path)?;
        in_worker(|| {
            os::private_mounts()?;
            same!(template.status()?, Status::Exited(0), "status in a copy of the namespace");
            os::unmount(mounted.folder.path())?;
            refused("where its mount is missing", template.status(), libc::ESTALE)
        })?;
        same!(template.status()?, Status::Exited(0), "status in the old namespace");
        Ok(())
    })
}

fn moved() -> Outcome {
    in_worker(|| {
        let mounted = Mounted::new(Kind::Tmpfs, "moved")?;
        let path = mounted.folder.copy("nothing")?;
        let template = Template::path(&path)?;
        let elsewhere = Folder::tmp("moved-to")?;
        os::mount(mounted.folder.path(), elsewhere.path(), "", libc::MS_MOVE, "")?;
        let moved = template.status();
        os::mount(elsewhere.path(), mounted.folder.path(), "", libc::MS_MOVE, "")?;
        refused("its mount moved", moved, libc::ESTALE)?;
        same!(template.status()?, Status::Exited(0), "status with the mount back");
        Ok(())
    })
}
