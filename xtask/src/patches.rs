//! The patch series: checking it, and rewriting it from an edited tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::cache::{Lock, walk};
use crate::cmd::{Cmd, create_dir, read_file, remove};
use crate::context::Context;
use crate::kernel::overlay::{self, Overlay, git};
use crate::kernel::{self, Plan};
use crate::source::{self, BASE_VERSION, Source};
use crate::ui::duration;

/// What checkpatch.pl must not ask for. A sign-off is a person's statement about where a patch comes from; those who
/// send the series add theirs, and the files here carry none.
const NOT_ASKED_FOR: &str = "MISSING_SIGN_OFF";

/// What of a kernel is built to see that it can be.
const BUILT: &[&str] = &["vmlinux", "modules"];

/// The same with an option that has no prompt and that nothing selects before the last patches: without it, the files
/// it is about would be compiled only there.
const BUILT_ALL: &[&str] = &["vmlinux", "modules", "CONFIG_KERNEL_SPAWN=y", "KCFLAGS=-DCONFIG_KERNEL_SPAWN=1"];

/// What the patch with the implementation says of itself.
const LAST_MESSAGE: &str = "linux-patches/implementation.txt";

/// From whom it is, as the other patches are.
const AUTHOR: (&str, &str) = ("spawn-template", "spawn-template@localhost");

/// `patches ...`
#[derive(clap::Subcommand)]
pub enum PatchesCommand {
    /// Check that the series applies to the pristine tree, that each patch builds and that checkpatch.pl is content
    Check {
        /// Leave out the builds, one per patch, which are what takes long
        #[arg(long)]
        no_build: bool,
    },
    /// Write a git tree to edit: the pristine source as first commit, each patch a commit on top
    Tree {
        /// The folder to write; it must not exist
        tree: PathBuf,
    },
    /// Write the series as it can be sent: the patches, and the implementation as the last one
    Export {
        /// The folder to write; it must not exist
        dir: PathBuf,
    },
    /// Rewrite the patch files from the commits of an edited git tree
    Refresh {
        /// The git tree whose commits become the series
        tree: PathBuf,
        /// The commit that the series starts on [default: the tag of the release, else the first commit]
        #[arg(long)]
        base: Option<String>,
    },
}

/// `patches`
pub fn main(ctx: &Context, command: PatchesCommand) -> Result<ExitCode> {
    match command {
        PatchesCommand::Check { no_build } => check(ctx, !no_build)?,
        PatchesCommand::Tree { tree } => write_tree(ctx, &tree)?,
        PatchesCommand::Export { dir } => export(ctx, &dir)?,
        PatchesCommand::Refresh { tree, base } => refresh(ctx, &tree, base)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn check(ctx: &Context, build: bool) -> Result<()> {
    let source = source::ensure(ctx)?;
    let patches = overlay::series(ctx)?;
    if patches.is_empty() {
        bail!("linux-patches/ holds no patches");
    }
    // Also compares the series' ABI header with the one in uapi-headers/.
    Overlay::of_checkout(ctx, &source)?;
    let (last, lock) = check_am(ctx, &source, &patches)?;
    checkpatch(ctx, &source, &patches, &last)?;
    drop(lock);
    let missing = kernel::not_compiled(ctx)?;
    if !missing.is_empty() {
        bail!(kernel::missing_options(&missing));
    }
    if build {
        check_builds(ctx, &patches)?;
    }
    ctx.ui.note(format!("{} patches are in order on Linux {} ({})", patches.len(), source.version, source.origin));
    Ok(())
}

/// `git am` takes the series, in order, without fuzz or conflict. Returns the implementation as the last patch, which is
/// there as long as the lock is held.
fn check_am(ctx: &Context, source: &Source, patches: &[PathBuf]) -> Result<(PathBuf, Lock)> {
    let step = ctx.ui.step("apply the series with git am");
    let lock = ctx.cache.lock(&ctx.ui, "patches-check")?;
    let dir = ctx.cache.path("work/am");
    // Only the files the series names are needed to tell whether it applies to them.
    overlay::copy_touched(source, patches, &fresh(&dir)?)?;
    repository(ctx, &dir)?;
    am(ctx, &dir, patches)?;
    let last = last_patch(ctx, &dir, patches.len() + 1)?;
    remove(&dir)?;
    step.done(format!("{} patches", patches.len()));
    Ok((last, lock))
}

/// Makes a patch of the implementation, in a git tree that has the others, and commits it there.
fn last_patch(ctx: &Context, tree: &Path, number: usize) -> Result<PathBuf> {
    let message = ctx.root.join(LAST_MESSAGE);
    // The date of the patch before, so that the same files give the same patch.
    let date = git(tree).args(["log", "-1", "--format=%aI"]).step("asking git").read()?;
    overlay::place_implementation(ctx, tree)?;
    git(tree).args(["add", "--force", overlay::IMPLEMENTATION.1]).run(ctx, "patches-git", |_| ())?;
    git(tree)
        .env("GIT_COMMITTER_NAME", AUTHOR.0)
        .env("GIT_COMMITTER_EMAIL", AUTHOR.1)
        .env("GIT_AUTHOR_NAME", AUTHOR.0)
        .env("GIT_AUTHOR_EMAIL", AUTHOR.1)
        .env("GIT_AUTHOR_DATE", date.trim())
        .args(["commit", "--quiet", "--file"])
        .arg(&message)
        .step("making a patch of the implementation")
        .run(ctx, "patches-git", |_| ())?;
    let dir = fresh(&ctx.cache.path("work/last-patch"))?;
    format_patches(ctx, tree, "HEAD~1..HEAD", &dir, number)?;
    sorted_patches(&dir)?.pop().context("git wrote no patch of the implementation")
}

/// Writes the commits of `range` as patch files. Nothing in them depends on who writes them, when, or in which repository.
fn format_patches(ctx: &Context, tree: &Path, range: &str, dir: &Path, number: usize) -> Result<()> {
    git(tree)
        .args(["-c", "core.abbrev=12", "-c", "diff.algorithm=myers", "-c", "format.useAutoBase=false"])
        .args(["format-patch", "--zero-commit", "--no-signature", "-N", "--quiet", "--output-directory"])
        .arg(dir)
        .arg(format!("--start-number={number}"))
        .arg(range)
        .step("writing the patches")
        .run(ctx, "patches-refresh", |_| ())
}

fn export(ctx: &Context, dir: &Path) -> Result<()> {
    if dir.exists() {
        bail!("{} exists already", dir.display());
    }
    let source = source::ensure(ctx)?;
    let patches = overlay::series(ctx)?;
    // Also compares the series' ABI header with the one in uapi-headers/.
    Overlay::of_checkout(ctx, &source)?;
    let (last, _lock) = check_am(ctx, &source, &patches)?;
    create_dir(dir)?;
    for patch in patches.iter().chain([&last]) {
        let name = patch.file_name().unwrap_or_default();
        fs::copy(patch, dir.join(name)).with_context(|| format!("cannot write {}", name.to_string_lossy()))?;
    }
    ctx.ui.note(format!("wrote {} patches to {}", patches.len() + 1, dir.display()));
    Ok(())
}

fn fresh(dir: &Path) -> Result<PathBuf> {
    remove(dir)?;
    create_dir(dir)?;
    Ok(dir.to_path_buf())
}

/// Makes `dir` a git repository with its content as the only commit.
fn repository(ctx: &Context, dir: &Path) -> Result<()> {
    let message = format!("--message=Linux {BASE_VERSION}");
    for command in [
        &["init", "--quiet", "--initial-branch=spawn-template"][..],
        &["add", "--all", "--force"],
        &["commit", "--quiet", "--allow-empty", &message],
    ] {
        as_somebody(git(dir)).args(command).step("preparing a git tree").run(ctx, "patches-git", |_| ())?;
    }
    Ok(())
}

fn am(ctx: &Context, dir: &Path, patches: &[PathBuf]) -> Result<()> {
    as_somebody(git(dir))
        .args(["am", "--committer-date-is-author-date"])
        .args(patches)
        .step(format!("applying the series to Linux {BASE_VERSION} with git am"))
        .hint("adapt the patch that is named; `cargo xtask patches tree DIR` gives a tree to work in")
        .run(ctx, "patches-am", |_| ())
}

/// git wants to know who commits; in a throw-away tree it does not matter.
fn as_somebody(git: Cmd) -> Cmd {
    git.env("GIT_COMMITTER_NAME", "xtask")
        .env("GIT_COMMITTER_EMAIL", "xtask@localhost")
        .env("GIT_AUTHOR_NAME", "xtask")
        .env("GIT_AUTHOR_EMAIL", "xtask@localhost")
}

fn checkpatch(ctx: &Context, source: &Source, patches: &[PathBuf], last: &Path) -> Result<()> {
    let step = ctx.ui.step("run checkpatch.pl --strict");
    let mut complaints = Vec::new();
    for patch in patches.iter().map(PathBuf::as_path).chain([last]) {
        let name = patch.file_name().unwrap_or_default().to_string_lossy().into_owned();
        step.progress(&name);
        let mut said = Vec::new();
        // The folder of its files stands in MAINTAINERS since an earlier patch, which checkpatch.pl does not know.
        let ignored = if patch == last { format!("{NOT_ASKED_FOR},FILE_PATH_CHANGES") } else { NOT_ASKED_FOR.into() };
        let result = Cmd::new("perl")
            .arg(source.dir.join("scripts/checkpatch.pl"))
            .args(["--strict", "--terse", "--show-types", "--no-summary", "--ignore", &ignored])
            .arg(format!("--root={}", source.dir.display()))
            .arg(patch)
            .step(format!("checkpatch.pl on {name}"))
            .run(ctx, "patches-checkpatch", |line| said.extend(complaint(line, patch)));
        // Its exit status tells of complaints. One that is not explained by them is a failure of its own.
        match result {
            Ok(()) => {}
            Err(error) if said.is_empty() => return Err(error),
            Err(_) => complaints.push(format!("{name}\n    {}", said.join("\n    "))),
        }
    }
    if !complaints.is_empty() {
        bail!(
            "checkpatch.pl --strict complains about {} of {} patches (numbers are lines of the patch files)\n  {}\n  \
             next: change what it names, or the commit message",
            complaints.len(),
            patches.len() + 1,
            complaints.join("\n  ")
        );
    }
    step.done("nothing to say");
    Ok(())
}

/// What a line of checkpatch.pl's says about a patch, without the patch's name. Other lines come from programs it would
/// like to run and cannot.
fn complaint(line: &str, patch: &Path) -> Option<String> {
    let text = line.strip_prefix(&format!("{}:", patch.display()))?;
    let kind = text.split_once(": ")?.1;
    ["ERROR:", "WARNING:", "CHECK:"].iter().any(|word| kind.starts_with(word)).then(|| text.to_owned())
}

/// Builds a small kernel after each patch, in a work tree of its own, where make compiles what a patch touches and no
/// more. What has been built before is remembered by content, so that an interrupted check goes on where it stopped.
fn check_builds(ctx: &Context, patches: &[PathBuf]) -> Result<()> {
    let source = source::ensure(ctx)?;
    let mut before: Option<(Plan, Overlay)> = None;
    for n in 1..=patches.len() {
        let name = patches[n - 1].file_name().unwrap_or_default().to_string_lossy();
        let overlay = Overlay::of_patches(ctx, &source, &patches[..n])?;
        let plan = Plan::to_check(ctx, source.clone(), overlay.clone(), "m")?;
        let harmless = match &before {
            Some((plan, before)) => Some((plan.key(), headers_that_grew(before, &overlay, &source)?)),
            None => None,
        };
        let harmless = harmless.as_ref().map(|(key, paths)| (*key, &paths[..]));
        let how = check_build(ctx, &plan, &overlay, BUILT_ALL, harmless)
            .with_context(|| format!("the kernel does not build with the series up to {name}"))?;
        ctx.ui.note(format!("patch {n} of {}: {how}: {name}", patches.len()));
        before = Some((plan, overlay));
    }
    let whole = Overlay::of_checkout(ctx, &source)?;
    for value in ["m", "y", "n"] {
        let plan = Plan::to_check(ctx, source.clone(), whole.clone(), value)?;
        let how = check_build(ctx, &plan, &Overlay::default(), BUILT, None)
            .with_context(|| format!("the whole series does not build with CONFIG_SPAWN_TEMPLATE={value}"))?;
        ctx.ui.note(format!("the whole series with CONFIG_SPAWN_TEMPLATE={value}: {how}"));
    }
    Ok(())
}

/// Builds a kernel unless that was done before, and says how long it took. Every C file of `overlay` must take part.
fn check_build(
    ctx: &Context,
    plan: &Plan,
    overlay: &Overlay,
    arguments: &[&str],
    harmless: Option<(&str, &[PathBuf])>,
) -> Result<String> {
    let begun = Instant::now();
    let mut built_before = true;
    ctx.cache.entry(&ctx.ui, "patch-builds", plan.key(), |_| {
        built_before = false;
        let tree = plan.build_with(ctx, arguments, harmless)?;
        let compiled = overlay.files.keys().filter(|path| path.extension().is_some_and(|e| e == "c"));
        let mut missing = Vec::new();
        for path in compiled {
            if !is_compiled(&tree.obj, path)? {
                missing.push(path.clone());
            }
        }
        if !missing.is_empty() {
            bail!(kernel::missing_options(&missing));
        }
        Ok(())
    })?;
    Ok(if built_before { "was built before".into() } else { format!("built in {}", duration(begun.elapsed())) })
}

/// Whether a C file takes part in a build, by itself or, as the scheduler's, included by another of its folder.
fn is_compiled(obj: &Path, path: &Path) -> Result<bool> {
    let object = obj.join(path.with_extension("o"));
    if object.exists() {
        return Ok(true);
    }
    let folder = object.parent().unwrap_or(obj);
    let commands = walk(folder)?.into_iter().filter(|file| file.to_string_lossy().ends_with(".o.cmd"));
    for command in commands {
        // What make knows of the object: its command, and all files it was made of.
        if read_file(&folder.join(command))?.contains(&*path.to_string_lossy()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The headers in which a patch only adds lines. It can break no file beside those it touches, except by taking a name
/// that is in use; and then the whole series breaks it too, which the kernel that guests boot would show. Central ones
/// would have everything compiled again, patch by patch.
fn headers_that_grew(before: &Overlay, after: &Overlay, source: &Source) -> Result<Vec<PathBuf>> {
    let mut grew = Vec::new();
    for (path, content) in &after.files {
        let (Some(content), true) = (content, path.extension().is_some_and(|e| e == "h")) else { continue };
        let old = match before.files.get(path) {
            Some(old) => old.clone(),
            None => Some(source.dir.join(path)).filter(|path| path.exists()),
        };
        let Some(old) = old else { continue };
        let (old, new) = (read_file(&old)?, read_file(content)?);
        if old != new && only_adds_lines(&old, &new) {
            grew.push(path.clone());
        }
    }
    Ok(grew)
}

/// Whether all lines of `old` are in `new`, in the same order.
fn only_adds_lines(old: &str, new: &str) -> bool {
    let mut new = new.lines();
    old.lines().all(|line| new.any(|other| other == line))
}

fn write_tree(ctx: &Context, tree: &Path) -> Result<()> {
    if tree.exists() {
        bail!("{} exists already", tree.display());
    }
    let source = source::ensure(ctx)?;
    let step = ctx.ui.step(format!("write {}", tree.display()));
    for path in walk(&source.dir)? {
        let (from, to) = (source.dir.join(&path), tree.join(&path));
        create_dir(to.parent().unwrap_or(tree))?;
        let context = || format!("cannot copy {}", from.display());
        if from.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&from)?, &to).with_context(context)?;
        } else {
            fs::copy(&from, &to).with_context(context)?;
        }
    }
    let tree = tree.canonicalize()?;
    repository(ctx, &tree)?;
    let patches = overlay::series(ctx)?;
    if !patches.is_empty() {
        am(ctx, &tree, &patches)?;
    }
    step.done("");
    ctx.ui.note(format!("edit and commit there, then run: cargo xtask patches refresh {}", tree.display()));
    Ok(())
}

fn refresh(ctx: &Context, tree: &Path, base: Option<String>) -> Result<()> {
    let tree = tree.canonicalize().with_context(|| format!("{} cannot be read", tree.display()))?;
    let base = match base {
        Some(base) => base,
        None => default_base(&tree)?,
    };
    let dirty = git(&tree).args(["status", "--porcelain", "--untracked-files=no"]).step("asking git").read()?;
    if !dirty.is_empty() {
        bail!("{} has changes that are not committed:\n{dirty}\n  next: commit them", tree.display());
    }
    let target = ctx.root.join("linux-patches");
    let fresh = fresh(&ctx.cache.path("work/refresh"))?;
    format_patches(ctx, &tree, &format!("{base}..HEAD"), &fresh, 1)?;
    let written = sorted_patches(&fresh)?;
    if written.is_empty() {
        bail!("{} has no commits after {base}", tree.display());
    }
    create_dir(&target)?;
    for old in sorted_patches(&target)? {
        remove(&old)?;
    }
    for patch in &written {
        let name = patch.file_name().unwrap_or_default();
        fs::copy(patch, target.join(name)).with_context(|| format!("cannot write {}", name.to_string_lossy()))?;
    }
    remove(&fresh)?;
    ctx.ui.note(format!("wrote {} patches to {}", written.len(), target.display()));
    Ok(())
}

fn sorted_patches(dir: &Path) -> Result<Vec<PathBuf>> {
    let paths = walk(dir)?.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "patch"));
    Ok(paths.map(|path| dir.join(path)).collect())
}

/// The release's tag in a clone of the stable tree, else the first commit, as in a tree made from a tarball.
fn default_base(tree: &Path) -> Result<String> {
    let tag = format!("v{BASE_VERSION}");
    if git(tree).args(["merge-base", "--is-ancestor", &tag, "HEAD"]).succeeds() {
        return Ok(tag);
    }
    let roots = git(tree).args(["rev-list", "--max-parents=0", "HEAD"]).step("finding the first commit").read()?;
    let roots: Vec<_> = roots.lines().collect();
    match roots[..] {
        [root] => Ok(root.to_owned()),
        _ => bail!(
            "{} has no tag {tag} and several first commits\n  next: say where to start with --base",
            tree.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_lines_are_told_from_changed_ones() {
        assert!(only_adds_lines("a\nb\n", "x\na\ny\nb\n"));
        assert!(!only_adds_lines("a\nb\n", "b\na\n"));
        assert!(!only_adds_lines("a\nb\n", "a\nc\n"));
    }

    #[test]
    fn complaints_are_told_from_other_lines() {
        let patch = Path::new("/p/1.patch");
        assert_eq!(complaint("/p/1.patch:540: WARNING:ENOSYS: no", patch).as_deref(), Some("540: WARNING:ENOSYS: no"));
        assert_eq!(complaint("ModuleNotFoundError: No module named 'ply'", patch), None);
        assert_eq!(complaint("/p/1.patch:has no obvious style problems", patch), None);
    }
}
