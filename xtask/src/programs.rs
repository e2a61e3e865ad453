//! The programs that run in the guest: ours in Rust, and the children that tests and benchmarks start.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::cache::Key;
use crate::cmd::{Cmd, create_dir, read_file, write_file};
use crate::context::Context;
use crate::manpage;
use crate::qemu::{FOLDER, Payload};

/// Static programs do not depend on the guest's C library, and run as PID 1 before there is one.
const FLAGS: &str = "-Ctarget-feature=+crt-static";
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// PID 1.
pub fn init(ctx: &Context) -> Result<PathBuf> {
    program(ctx, "guest-init", &["qemu-tests/init"])
}

/// The test suite.
pub fn suite(ctx: &Context) -> Result<PathBuf> {
    program(ctx, "guest-suite", &["qemu-tests/suite", "userspace-lib", "uapi-headers"])
}

/// The benchmark.
pub fn bench(ctx: &Context) -> Result<PathBuf> {
    program(ctx, "guest-bench", &["qemu-tests/bench", "userspace-lib", "uapi-headers"])
}

/// Gives a guest the children, at `/payload/children`.
pub fn add_children(ctx: &Context, payload: &mut Payload) -> Result<()> {
    payload.copy(&children(ctx)?, &Path::new(FOLDER).join("children"))
}

/// Builds a package of ours, made of these folders, when the cache has none.
fn program(ctx: &Context, package: &str, sources: &[&str]) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let version = Cmd::new("rustc").arg("-vV").dir(&ctx.root).read()?;
    let mut key = Key::new("guest program 1").text("package", package).text("rustc", version).text("flags", FLAGS);
    for file in ["Cargo.toml", "Cargo.lock"] {
        key = key.file(file, &ctx.root.join(file))?;
    }
    for folder in sources {
        key = key.tree(folder, &ctx.root.join(folder))?;
    }
    let entry = ctx.cache.entry(&ctx.ui, "program", &key.finish(), |folder| {
        // The compiled dependencies are shared by all checkouts and versions; only one build at a time may leave its
        // program there.
        let target = ctx.cache.path("program-target");
        create_dir(&target)?;
        let _lock = ctx.cache.lock(&ctx.ui, "program-target")?;
        let step = ctx.ui.step(format!("build {package}"));
        Cmd::new(cargo)
            .args(["build", "--release", "--package", package, "--target", TARGET, "--target-dir"])
            .arg(&target)
            .env("RUSTFLAGS", FLAGS)
            .dir(&ctx.root)
            .step(format!("building {package}"))
            .run(ctx, package, |line| step.progress(line.trim()))?;
        let built = target.join(TARGET).join("release").join(package);
        fs::copy(&built, folder.join(package)).with_context(|| format!("cannot copy {}", built.display()))?;
        step.done("");
        Ok(())
    })?;
    Ok(entry.join(package))
}

fn children(ctx: &Context) -> Result<PathBuf> {
    let sources = ctx.root.join("qemu-tests/children");
    let version = Cmd::new("cc").arg("--version").read()?;
    let key = Key::new("children 2")
        .text("cc", version)
        .tree("sources", &sources)?
        .tree("headers", &ctx.root.join("uapi-headers"))?
        .finish();
    ctx.cache.entry(&ctx.ui, "children", &key, |folder| {
        let step = ctx.ui.step("build the child programs");
        for Child { name, source, flags } in parse(&read_file(&sources.join("children.txt"))?)? {
            step.progress(&name);
            let mut source = sources.join(source);
            if source.extension().is_some_and(|extension| extension == "2") {
                let page = read_file(&source)?;
                source = folder.join(format!("{name}.c"));
                write_file(&source, manpage::program(&page)?)?;
            }
            Cmd::new("cc")
                .arg("-o")
                .arg(folder.join(&name))
                .args(&flags)
                .arg(source)
                .dir(&sources)
                .step(format!("building the child program {name}"))
                .run(ctx, "children", |_| {})?;
        }
        step.done("");
        Ok(())
    })
}

/// A line of `children.txt`.
#[derive(Debug, PartialEq, Eq)]
struct Child {
    name: String,
    source: String,
    flags: Vec<String>,
}

fn parse(table: &str) -> Result<Vec<Child>> {
    let lines = table.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split_whitespace().map(str::to_owned);
            match (words.next(), words.next()) {
                (Some(name), Some(source)) => Ok(Child { name, source, flags: words.collect() }),
                _ => bail!("children.txt: {line:?} names no source"),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read() {
        let children = parse("# comment\n\nnothing nothing.S -nostdlib  -static\nshow\tshow.c\n").unwrap();
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        assert_eq!(children.len(), 2);
        assert_eq!(children[0].flags, owned(&["-nostdlib", "-static"]));
        assert_eq!((children[1].name.as_str(), children[1].source.as_str()), ("show", "show.c"));
        assert!(parse("alone\n").is_err());
    }

    #[test]
    fn the_projects_own_table_is_well_formed() {
        let folder = crate::context::repo_root().join("qemu-tests/children");
        let children = parse(&read_file(&folder.join("children.txt")).unwrap()).unwrap();
        assert!(children.iter().all(|child| folder.join(&child.source).is_file()));
    }
}
