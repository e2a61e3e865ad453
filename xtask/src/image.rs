//! The guest's userland: a minimal Debian of the machine's own release, as an ext4 image.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};

use crate::cache::Key;
use crate::cmd::{Cmd, read_file, remove, which, write_file};
use crate::context::Context;
use crate::qemu::LIBRARY_FOLDERS;
use crate::source::apt;

/// Change this when the steps below change.
const RECIPE: &str = "image 1";

/// What is installed beyond Debian's minimum: enough to look around in `cargo xtask shell`, and programs that start
/// others, or are started, in tests of the preload library and in `bench --tools`.
const PACKAGES: &str = "procps,kmod,make,tcc,libc6-dev,python3-minimal,ksh93u+m,git";

/// What is installed for the guest that tests debuggers. The minimal gdb has no Python in it, which follows processes as
/// the whole one does.
const DEBUGGERS: &str = "kmod,gdb-minimal,strace";

/// Weight that nobody reads in a guest.
const EXCLUDED: &[&str] = &["/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*"];

/// The file system's size. The image is sparse, and a guest writes to a copy that goes away with it.
const SIZE: &str = "2G";

/// A userland.
#[derive(Clone, Debug)]
pub struct Image {
    /// The file system.
    pub disk: PathBuf,
    /// The names of the shared libraries in it, and the paths of its dynamic linkers.
    libraries: BTreeSet<String>,
}

impl Image {
    /// Whether the guest's dynamic linker finds the library called `name`, or the guest has the interpreter at `name`.
    pub fn has_library(&self, name: &str) -> bool {
        self.libraries.contains(name)
    }
}

/// `image`
pub fn main(ctx: &Context) -> Result<ExitCode> {
    println!("{}", ensure(ctx)?.disk.display());
    Ok(ExitCode::SUCCESS)
}

/// Returns the image, after building it when the cache has none.
pub fn ensure(ctx: &Context) -> Result<Image> {
    ensure_with(ctx, PACKAGES)
}

/// Returns the image with gdb and strace, and without what other tests need, after building it when the cache has none.
pub fn ensure_with_debuggers(ctx: &Context) -> Result<Image> {
    ensure_with(ctx, DEBUGGERS)
}

fn ensure_with(ctx: &Context, packages: &str) -> Result<Image> {
    let (release, sources) = apt::own_release()?;
    let key = Key::new(RECIPE)
        .text("release", &release)
        .text("packages", packages)
        .text("excluded", EXCLUDED.join(" "))
        .text("size", SIZE)
        .finish();
    let entry = ctx.cache.entry(&ctx.ui, "image", &key, |folder| build(ctx, folder, packages, &release, &sources))?;
    let listing = read_file(&entry.join("libraries"))?;
    Ok(Image { disk: entry.join("root.ext4"), libraries: listing.lines().map(str::to_owned).collect() })
}

fn build(ctx: &Context, folder: &Path, packages: &str, release: &str, sources: &str) -> Result<()> {
    if !is_root() && !Cmd::new("sudo").args(["-n", "true"]).succeeds() {
        ctx.ui.note("making the guest's userland needs root; will run: sudo -v");
        ensure!(
            Cmd::new("sudo").arg("-v").on_terminal()?.success(),
            "sudo refused; run `cargo xtask image` once as root"
        );
    }
    let step = ctx.ui.step(format!("make the guest's userland, Debian {release}"));
    let disk = folder.join("root.ext4");
    let listing = folder.join("libraries");
    // mmdebstrap runs the hook once the system is complete, and afterwards removes its temporary folder by itself, also
    // when it is interrupted. The hook's script does everything that needs the rights mmdebstrap runs with.
    let hook = folder.join("hook");
    write_file(&hook, script(&disk, &listing)?)?;
    // The machine's own site, with its keys.
    let list = folder.join("debian.sources");
    write_file(&list, sources)?;

    // Installing packages with their owners needs root.
    let mut command = if is_root() { Cmd::new("mmdebstrap") } else { Cmd::new("sudo").args(["-n", "mmdebstrap"]) };
    command = command.args(["--mode=root", "--format=null", "--variant=minbase"]);
    command = command.arg(format!("--include={packages}"));
    for pattern in EXCLUDED {
        command = command.arg(format!("--dpkgopt=path-exclude={pattern}"));
    }
    command
        .arg(format!("--customize-hook=sh {} \"$1\"", hook.display()))
        .args([release, "/dev/null"])
        .arg(&list)
        .step("making the guest's userland")
        .hint("look at the log; when the mirror cannot be reached, try again later")
        .run(ctx, "image", |line| step.progress(line))?;
    remove(&hook)?;
    remove(&list)?;
    step.done("");
    Ok(())
}

fn is_root() -> bool {
    // SAFETY: geteuid(2) cannot fail and touches no memory.
    unsafe { libc::geteuid() == 0 }
}

/// The hook: makes the disk of the folder it is given and lists the libraries. The disk is made from a second view of
/// the folder, in which mmdebstrap's mounts of /proc and the like do not show.
fn script(disk: &Path, listing: &Path) -> Result<String> {
    let mke2fs = which("mke2fs").context("there is no mke2fs")?;
    let ours = listing.parent().unwrap_or(listing).metadata()?;
    let owner = format!("{}:{}", ours.uid(), ours.gid());
    let [mke2fs, disk, listing] = [&mke2fs, disk, listing].map(quoted);
    let folders = LIBRARY_FOLDERS.iter().map(|folder| format!("\"$1\"{folder}")).collect::<Vec<_>>().join(" ");
    Ok(format!(
        "set -e\n\
         rm -rf \"$1\"/var/lib/apt/lists/* \"$1\"/var/cache/apt/archives/*.deb \"$1\"/var/cache/apt/*.bin\n\
         for folder in {folders}; do\n\
             [ -d \"$folder\" ] || continue\n\
             for file in \"$folder\"/*.so*; do\n\
                 [ -e \"$file\" ] || continue\n\
                 echo \"${{file##*/}}\"\n\
                 case \"$file\" in */ld-*.so*) echo \"${{file#\"$1\"}}\" ;; esac\n\
             done\n\
         done >{listing}\n\
         view=$(mktemp -d)\n\
         mount --bind \"$1\" \"$view\"\n\
         {mke2fs} -q -t ext4 -m 0 -E root_owner=0:0,lazy_itable_init=0 -d \"$view\" {disk} {SIZE}\n\
         umount \"$view\"\n\
         rmdir \"$view\"\n\
         chown {owner} {listing} {disk}\n"
    ))
}

/// A path as one word of a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
