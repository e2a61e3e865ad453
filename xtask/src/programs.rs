//! The programs that run in the guest: ours in Rust, and the children that tests and benchmarks start.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::cache::Key;
use crate::cmd::{Cmd, create_dir, read_file};
use crate::context::Context;
use crate::qemu::Payload;

/// Static programs do not depend on the guest's C library, and run as PID 1 before there is one.
const FLAGS: &str = "-Ctarget-feature=+crt-static";
const TARGET: &str = "x86_64-unknown-linux-gnu";
const PACKAGES: [&str; 3] = ["guest-init", "guest-suite", "guest-bench"];

/// What the programs are made of, relative to the checkout.
const SOURCES: [&str; 5] = ["userspace-lib", "qemu-tests/init", "qemu-tests/suite", "qemu-tests/bench", "uapi-headers"];

/// Where the guest's programs are.
pub struct Programs {
    rust: PathBuf,
    children: PathBuf,
}

impl Programs {
    /// PID 1.
    pub fn init(&self) -> PathBuf {
        self.rust.join("guest-init")
    }

    /// The test suite.
    pub fn suite(&self) -> PathBuf {
        self.rust.join("guest-suite")
    }

    /// The benchmark.
    pub fn bench(&self) -> PathBuf {
        self.rust.join("guest-bench")
    }

    /// Gives a guest the children, at `/payload/children`.
    pub fn add_children(&self, payload: &mut Payload) -> Result<()> {
        payload.copy(&self.children, Path::new("/payload/children"))
    }
}

/// Builds the guest's programs, as far as the cache has them not.
pub fn ensure(ctx: &Context) -> Result<Programs> {
    Ok(Programs { rust: rust(ctx)?, children: children(ctx)? })
}

fn rust(ctx: &Context) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let version = Cmd::new("rustc").arg("-vV").dir(&ctx.root).read()?;
    let mut key = Key::new("guest programs 1").text("rustc", version).text("flags", FLAGS);
    for file in ["Cargo.toml", "Cargo.lock"] {
        key = key.file(file, &ctx.root.join(file))?;
    }
    for tree in SOURCES {
        key = key.tree(tree, &ctx.root.join(tree))?;
    }
    ctx.cache.entry(&ctx.ui, "programs", &key.finish(), |folder| {
        // The compiled dependencies are shared by all checkouts and versions; only one build at a time may leave its
        // programs there.
        let target = ctx.cache.path("programs-target");
        create_dir(&target)?;
        let _lock = ctx.cache.lock(&ctx.ui, "programs-target")?;
        let step = ctx.ui.step("build the guest's programs");
        let mut command =
            Cmd::new(&cargo).args(["build", "--release", "--target", TARGET, "--target-dir"]).arg(&target);
        for package in PACKAGES {
            command = command.args(["--package", package]);
        }
        command.env("RUSTFLAGS", FLAGS).dir(&ctx.root).step("building the guest's programs").run(
            ctx,
            "programs",
            |line| step.progress(line.trim()),
        )?;
        for package in PACKAGES {
            let built = target.join(TARGET).join("release").join(package);
            fs::copy(&built, folder.join(package)).with_context(|| format!("cannot copy {}", built.display()))?;
        }
        step.done("");
        Ok(())
    })
}

fn children(ctx: &Context) -> Result<PathBuf> {
    let sources = ctx.root.join("qemu-tests/children");
    let version = Cmd::new("cc").arg("--version").read()?;
    let key = Key::new("children 1").text("cc", version).tree("sources", &sources)?.finish();
    ctx.cache.entry(&ctx.ui, "children", &key, |folder| {
        let step = ctx.ui.step("build the child programs");
        for Child { name, source, flags } in parse(&read_file(&sources.join("children.txt"))?)? {
            step.progress(&name);
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
