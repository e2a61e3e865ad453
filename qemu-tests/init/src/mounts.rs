//! The mount tables, and the step from the initramfs into the real root file system.

use crate::sys;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// Where the root file system is assembled before it becomes `/`.
const NEW_ROOT: &str = "/newroot";

/// One line of a mount table.
struct Mount {
    source: &'static str,
    target: &'static str,
    kind: &'static str,
    flags: libc::c_ulong,
    options: &'static str,
}

const NONE: libc::c_ulong = 0;
const SAFE: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV;
const INERT: libc::c_ulong = SAFE | libc::MS_NOEXEC;

/// What is needed to find the disk and the ports.
const EARLY: &[Mount] = &[
    Mount { source: "devtmpfs", target: "/dev", kind: "devtmpfs", flags: libc::MS_NOSUID, options: "mode=0755" },
    Mount { source: "sysfs", target: "/sys", kind: "sysfs", flags: INERT, options: "" },
];

/// What a program expects of a running system; targets are below the new root. Temporary places allow programs and
/// devices to be used, as on an ordinary system: tests run from there.
const SYSTEM: &[Mount] = &[
    Mount { source: "proc", target: "/proc", kind: "proc", flags: INERT, options: "" },
    Mount { source: "sysfs", target: "/sys", kind: "sysfs", flags: INERT, options: "" },
    Mount { source: "cgroup2", target: "/sys/fs/cgroup", kind: "cgroup2", flags: INERT, options: "" },
    Mount { source: "securityfs", target: "/sys/kernel/security", kind: "securityfs", flags: INERT, options: "" },
    Mount { source: "tracefs", target: "/sys/kernel/tracing", kind: "tracefs", flags: INERT, options: "" },
    Mount { source: "debugfs", target: "/sys/kernel/debug", kind: "debugfs", flags: INERT, options: "" },
    Mount { source: "devtmpfs", target: "/dev", kind: "devtmpfs", flags: libc::MS_NOSUID, options: "mode=0755" },
    Mount {
        source: "devpts",
        target: "/dev/pts",
        kind: "devpts",
        flags: libc::MS_NOSUID | libc::MS_NOEXEC,
        options: "gid=5,mode=0620,ptmxmode=0666",
    },
    Mount { source: "tmpfs", target: "/dev/shm", kind: "tmpfs", flags: SAFE, options: "mode=1777" },
    Mount { source: "tmpfs", target: "/run", kind: "tmpfs", flags: SAFE, options: "mode=0755" },
    Mount { source: "tmpfs", target: "/tmp", kind: "tmpfs", flags: NONE, options: "mode=1777" },
];

/// File systems a kernel may be built without; a guest is complete without them.
const OPTIONAL: &[&str] = &["securityfs", "tracefs", "debugfs"];

/// Mounts what the initramfs needs.
pub fn early() -> Result<(), String> {
    EARLY.iter().try_for_each(|mount| apply(mount, ""))
}

/// Mounts `disk` and everything around it, takes the payload along and makes the result the root.
pub fn enter_root(disk: &str) -> Result<(), String> {
    wait_for(disk)?;
    make_directory(Path::new(NEW_ROOT))?;
    sys::mount(disk, NEW_ROOT, "ext4", libc::MS_NOATIME, "").map_err(|error| format!("mounting {disk}: {error}"))?;
    for mount in SYSTEM {
        apply(mount, NEW_ROOT)?;
    }
    for (link, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        // Already there when the first boot stage or the kernel made it.
        let _ = std::os::unix::fs::symlink(target, format!("{NEW_ROOT}/dev/{link}"));
    }

    // The initramfs is a tmpfs, so its payload folder can simply appear in the new root.
    let payload = format!("{NEW_ROOT}/payload");
    make_directory(Path::new(&payload))?;
    sys::mount("/payload", &payload, "", libc::MS_BIND, "").map_err(|error| format!("moving the payload: {error}"))?;

    sys::switch_root(NEW_ROOT).map_err(|error| format!("switching to the root file system: {error}"))
}

fn apply(mount: &Mount, root: &str) -> Result<(), String> {
    let target = format!("{root}{}", mount.target);
    let optional = OPTIONAL.contains(&mount.kind);
    if optional && !Path::new(&target).is_dir() {
        return Ok(());
    }
    make_directory(Path::new(&target))?;
    match sys::mount(mount.source, &target, mount.kind, mount.flags, mount.options) {
        Err(error) if !optional => Err(format!("mounting {} on {target}: {error}", mount.kind)),
        _ => Ok(()),
    }
}

fn make_directory(path: &Path) -> Result<(), String> {
    fs::create_dir_all(path).map_err(|error| format!("creating {}: {error}", path.display()))
}

/// The kernel may still be probing the disk when the first process starts.
fn wait_for(disk: &str) -> Result<(), String> {
    for _ in 0..500 {
        if Path::new(disk).exists() {
            return Ok(());
        }
        sleep(Duration::from_millis(10));
    }
    Err(format!("{disk} did not appear"))
}
