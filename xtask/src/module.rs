//! The implementation as a module: where it is, and what the kernel's linters say of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::cache::{Key, walk};
use crate::cmd::{Cmd, create_dir, remove, write_file};
use crate::context::Context;
use crate::kernel::{self, Flavor, Kernel, Tree};

/// Changes when the steps below check something else of the same inputs.
const RECIPE: &str = "module 2";

/// What compiles the module alone, so that nothing else of the kernel is compiled by clippy.
const KBUILD: &str = "obj-m := spawn_template.o\nspawn_template-y := spawn_template_main.o\n";

/// Arguments of `module`.
#[derive(clap::Args)]
pub struct ModuleArgs {
    /// Check formatting and run clippy as well
    #[arg(long)]
    pub lint: bool,
}

/// `module`
pub fn main(ctx: &Context, args: ModuleArgs) -> Result<ExitCode> {
    let kernel = kernel::ensure(ctx, Flavor::Patched)?;
    if args.lint {
        lint(ctx, &kernel)?;
    }
    println!("{}", kernel.module.unwrap_or_default().display());
    Ok(ExitCode::SUCCESS)
}

/// What the kernel's own `make rustfmtcheck CLIPPY=1` does for code inside the tree. An entry in the cache says that
/// there was nothing to say.
pub fn lint(ctx: &Context, kernel: &Kernel) -> Result<()> {
    let source = ctx.root.join("rust-module");
    let key = Key::new(RECIPE).text("kernel", &kernel.key).finish();
    ctx.cache.entry(&ctx.ui, "module-lint", &key, |_| run_linters(ctx, kernel, &source))?;
    Ok(())
}

fn run_linters(ctx: &Context, kernel: &Kernel, source: &Path) -> Result<()> {
    let tree = kernel::tree(ctx, kernel)?;
    let tool = |name: &str| {
        let path = tree.toolchain.rust.companion(name);
        match path.exists() {
            true => Ok(path),
            false => {
                bail!("{} is not installed\n  next: install the {name} that belongs to this rustc", path.display())
            }
        }
    };
    let (rustfmt, _clippy) = (tool("rustfmt")?, tool("clippy-driver")?);

    let step = ctx.ui.step("check the module's formatting");
    let rust = walk(source)?.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    Cmd::new(rustfmt)
        .dir(source)
        .args(["--check", "--config-path"])
        .arg(tree.src.join(".rustfmt.toml"))
        .args(rust)
        .step("checking the module's formatting")
        .hint("run that command without --check")
        .run(ctx, "module-rustfmt", |_| ())?;
    step.done("");

    let step = ctx.ui.step("run clippy on the module");
    let scratch = scratch(ctx, source, "module-clippy")?;
    // Beside the makefile of the tree, make prefers it.
    write_file(&scratch.join("Kbuild"), KBUILD)?;
    // Only the module is compiled here, so only its warnings become errors.
    build(ctx, &tree, &scratch, "module-clippy", &["CLIPPY=1", "KRUSTFLAGS=-Dwarnings"])?;
    step.done("no warnings");
    Ok(())
}

/// A fresh copy of the module's source: the kernel's makefiles put objects beside what they compile.
fn scratch(ctx: &Context, source: &Path, name: &str) -> Result<PathBuf> {
    let scratch = ctx.cache.path("work").join(name);
    remove(&scratch)?;
    for file in walk(source)? {
        let to = scratch.join(&file);
        create_dir(to.parent().unwrap_or(&scratch))?;
        fs::copy(source.join(&file), &to).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    Ok(scratch)
}

fn build(ctx: &Context, tree: &Tree, scratch: &Path, log: &str, options: &[&str]) -> Result<()> {
    tree.make(ctx)
        .arg(format!("M={}", scratch.display()))
        .args(options)
        .arg("modules")
        .step("building the module")
        .hint("the file names in the messages are those of a copy; edit rust-module/")
        .run(ctx, log, |_| ())
}
