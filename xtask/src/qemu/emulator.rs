//! Where the emulator is: what the machine has installed, or Debian's packages of it unpacked into the cache.
//!
//! They are unpacked where they cannot be installed. A machine may have a part of QEMU from another suite, backports for
//! one, and the release's own packages conflict with it: to install them, something would have to be removed or replaced
//! that the machine's owner wants. What they depend on has no such conflicts and is installed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::cmd::{Cmd, create_dir, read_file, which, write_file};
use crate::context::Context;

/// The emulator's program.
const BINARY: &str = "qemu-system-x86_64";

/// Debian's package with the emulator.
pub const PACKAGE: &str = "qemu-system-x86";

/// What is unpacked: the package, and those of its dependencies that conflict with another QEMU.
const UNPACKED: [&str; 3] = [PACKAGE, "qemu-system-common", "qemu-system-data"];

/// Where the firmware's package puts it, and where an unpacked emulator looks for it.
const FIRMWARE: &str = "usr/share/seabios";

/// The cache's entry with what was unpacked, and its list of what that depends on.
const KIND: &str = "qemu";
const KEY: &str = "unpacked";
const DEPENDS: &str = "depends";

/// The emulator, if there is one.
pub fn find(ctx: &Context) -> Option<PathBuf> {
    // An unpacked one is of no use on a machine that lacks what it depends on.
    let unpacked = || {
        let path = ctx.cache.entry_path(KIND, KEY).join("usr/bin").join(BINARY);
        Cmd::new(&path).arg("--version").succeeds().then_some(path)
    };
    which(BINARY).or_else(unpacked)
}

/// The emulator; an error if there is none.
pub fn path(ctx: &Context) -> Result<PathBuf> {
    find(ctx).with_context(|| format!("there is no {BINARY}\n  next: run `cargo xtask doctor`"))
}

/// Whether apt would install the package without removing another one.
pub fn can_be_installed() -> bool {
    Cmd::new("apt-get").args(["install", "--simulate", "--no-remove", "--no-install-recommends", PACKAGE]).succeeds()
}

/// Downloads the packages, unpacks them into the cache and has `install` install what they depend on, which it is given in
/// the words of `apt-get satisfy`.
pub fn unpack(ctx: &Context, install: impl FnOnce(&str) -> Result<()>) -> Result<()> {
    let entry = ctx.cache.entry(&ctx.ui, KIND, KEY, |partial| {
        let packages = partial.join("packages");
        create_dir(&packages)?;
        let step = ctx.ui.step(format!("download {}", UNPACKED.join(", ")));
        Cmd::new("apt-get")
            .dir(&packages)
            // As root apt would drop to a user that cannot write to a cache in root's home.
            .args(["-q", "-o", "APT::Sandbox::User=root", "download"])
            .args(UNPACKED)
            .step(format!("downloading {PACKAGE}"))
            .hint("check that the machine's Debian mirror can be reached, then run the same command again")
            .run(ctx, "qemu-download", |line| step.progress(line))?;
        step.done("");
        let mut needed = Vec::new();
        for file in fs::read_dir(&packages)? {
            let file = file?.path();
            Cmd::new("dpkg-deb").arg("--extract").arg(&file).arg(partial).read()?;
            let depends = Cmd::new("dpkg-deb").arg("--field").arg(&file).arg("Depends").read()?;
            needed.extend(from_elsewhere(&depends));
        }
        fs::remove_dir_all(&packages).with_context(|| format!("cannot remove {}", packages.display()))?;
        let firmware = partial.join(FIRMWARE);
        if !firmware.exists() {
            symlink(Path::new("/").join(FIRMWARE), &firmware)
                .with_context(|| format!("cannot create {}", firmware.display()))?;
        }
        write_file(&partial.join(DEPENDS), needed.join(", "))
    })?;
    install(&read_file(&entry.join(DEPENDS))?)
}

/// What a package depends on that is not itself unpacked.
fn from_elsewhere(depends: &str) -> Vec<String> {
    let is_unpacked =
        |dependency: &str| dependency.split([' ', ':']).next().is_some_and(|name| UNPACKED.contains(&name));
    let all = depends.split(',').map(str::trim);
    all.filter(|dependency| !dependency.is_empty() && !is_unpacked(dependency)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unpacked_is_not_asked_for() {
        let depends =
            "libc6 (>= 2.34), qemu-system-common (= 1:7.2+dfsg-7), a | b,  seabios, qemu-system-data (>> 1:7.2)";
        assert_eq!(from_elsewhere(depends), ["libc6 (>= 2.34)", "a | b", "seabios"]);
        assert!(from_elsewhere("").is_empty());
    }
}
