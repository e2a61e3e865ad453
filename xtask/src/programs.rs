//! The programs that run in the guest: ours in Rust, and the children that tests and benchmarks start. And the plugin
//! that watches them from outside.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::cache::Key;
use crate::cmd::{Cmd, create_dir, read_file, write_file};
use crate::context::Context;
use crate::manpage;
use crate::qemu::{FOLDER, Payload};

/// Static programs do not depend on the guest's C library, and run as PID 1 before there is one.
const STATIC: &str = "-Ctarget-feature=+crt-static";
/// A library to preload, and the program that it is tested with, have the guest's C library in common.
const DYNAMIC: &str = "";
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The preload library, as cargo calls it.
const PRELOAD: &str = "libspawn_template_preload.so";

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

/// What makes random calls.
pub fn fuzz(ctx: &Context) -> Result<PathBuf> {
    program(ctx, "guest-fuzz", &["qemu-tests/fuzz", "userspace-lib", "uapi-headers"])
}

/// The profiler: a shared library for QEMU on this machine.
pub fn profile_plugin(ctx: &Context) -> Result<PathBuf> {
    const FILE: &str = "libprofile_plugin.so";
    let arguments = ["build", "--release", "--package", "profile-plugin"];
    let sources = ["xtask/profile-plugin", "qemu-tests/bench/src"];
    let entry = cargo(ctx, "profile-plugin", &arguments, "", &sources, |target, _, folder| {
        let built = target.join("release").join(FILE);
        fs::copy(&built, folder.join(FILE)).with_context(|| format!("cannot copy {}", built.display()))?;
        Ok(())
    })?;
    Ok(entry.join(FILE))
}

/// Gives a guest the children, at `/payload/children`.
pub fn add_children(ctx: &Context, payload: &mut Payload) -> Result<()> {
    payload.copy(&children(ctx)?, &Path::new(FOLDER).join("children"))
}

/// The crate's tests that need the system calls: every `userspace-lib/tests/spawn*.rs`. Returns the folder they lie
/// in, one program each.
pub fn crate_tests(ctx: &Context) -> Result<PathBuf> {
    let arguments = ["--package", "spawn-template", "--all-features", "--test", "spawn*"];
    tests(ctx, "crate-tests", &arguments, STATIC, |_, _| Ok(()))
}

/// The preload library, and those of its tests that need no more than a guest has. They look for it in the folder that
/// they lie in.
pub fn preload_tests(ctx: &Context) -> Result<PathBuf> {
    let arguments =
        ["--package", "spawn-template-preload", "--test", "programs", "--test", "compare", "--test", "hostile"];
    tests(ctx, "preload-tests", &arguments, DYNAMIC, |target, folder| {
        copy(&target.join("debug/deps").join(PRELOAD), &folder.join(PRELOAD))
    })
}

/// Builds tests of the crate or of the preload library when the cache has none, and has `keep` copy what belongs to them
/// from the folder that cargo built in. Returns the folder they lie in, one program each.
fn tests(
    ctx: &Context,
    name: &str,
    arguments: &[&str],
    flags: &str,
    keep: impl FnOnce(&Path, &Path) -> Result<()>,
) -> Result<PathBuf> {
    let arguments = [&["test", "--no-run", "--message-format", "json-render-diagnostics"], arguments].concat();
    cargo(ctx, name, &arguments, flags, &["userspace-lib", "uapi-headers"], |target, said, folder| {
        let tests: Vec<Test> = said.iter().filter_map(|line| Test::parse(line)).collect();
        ensure!(!tests.is_empty(), "cargo named no test of the {name} that it has built");
        for Test { name, program } in tests {
            copy(&program, &folder.join(name))?;
        }
        keep(target, folder)
    })
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}

/// Builds a package of ours, made of these folders, when the cache has none.
fn program(ctx: &Context, package: &str, sources: &[&str]) -> Result<PathBuf> {
    let arguments = ["build", "--release", "--package", package];
    let entry = cargo(ctx, package, &arguments, STATIC, sources, |target, _, folder| {
        copy(&target.join("release").join(package), &folder.join(package))
    })?;
    Ok(entry.join(package))
}

/// Has cargo build something made of these folders when the cache has none, and `keep` copy it from the folder that
/// cargo built in, going by what cargo said, to the cache.
fn cargo(
    ctx: &Context,
    name: &str,
    arguments: &[&str],
    flags: &str,
    sources: &[&str],
    keep: impl FnOnce(&Path, &[String], &Path) -> Result<()>,
) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let version = Cmd::new("rustc").arg("-vV").dir(&ctx.root).read()?;
    let mut key = Key::new("guest program 2").text("rustc", version).text("flags", flags);
    for argument in arguments {
        key = key.text("argument", argument);
    }
    for file in ["Cargo.toml", "Cargo.lock"] {
        key = key.file(file, &ctx.root.join(file))?;
    }
    for folder in sources {
        key = key.tree(folder, &ctx.root.join(folder))?;
    }
    ctx.cache.entry(&ctx.ui, "program", &key.finish(), |folder| {
        // cargo takes what another checkout has built for its own when that is newer than the sources here, so each has
        // a folder of its own, in which one build at a time may leave its programs.
        let checkout = Key::new("checkout").bytes("root", ctx.root.as_os_str().as_bytes()).finish();
        let target = ctx.cache.path("program-target").join(&checkout);
        create_dir(&target)?;
        let _lock = ctx.cache.lock(&ctx.ui, &format!("program-target-{checkout}"))?;
        let step = ctx.ui.step(format!("build {name}"));
        let mut said = Vec::new();
        Cmd::new(cargo)
            .args(arguments)
            .args(["--target", TARGET, "--target-dir"])
            .arg(&target)
            .env("RUSTFLAGS", flags)
            .dir(&ctx.root)
            .step(format!("building {name}"))
            .run(ctx, name, |line| {
                step.progress(line.trim());
                said.push(line.to_owned());
            })?;
        keep(&target.join(TARGET), &said, folder)?;
        step.done("");
        Ok(())
    })
}

/// A test program that cargo has built.
#[derive(Debug, PartialEq, Eq)]
struct Test {
    name: String,
    program: PathBuf,
}

impl Test {
    /// Reads a line of cargo's messages; most are about other things.
    fn parse(line: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Message {
            target: Target,
            executable: Option<PathBuf>,
        }
        #[derive(Deserialize)]
        struct Target {
            name: String,
            kind: Vec<String>,
        }
        let message: Message = serde_json::from_str(line).ok()?;
        let is_test = message.target.kind.iter().any(|kind| kind == "test");
        Some(Self { name: message.target.name, program: message.executable.filter(|_| is_test)? })
    }
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
    fn test_programs_are_told_from_what_else_cargo_says() {
        let test =
            r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"spawn"},"executable":"/t/spawn-1"}"#;
        assert_eq!(Test::parse(test), Some(Test { name: "spawn".into(), program: "/t/spawn-1".into() }));
        let library = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"libc"},"executable":null}"#;
        assert_eq!(Test::parse(library), None);
        assert_eq!(Test::parse(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(Test::parse("   Compiling libc v0.2"), None);
    }

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
