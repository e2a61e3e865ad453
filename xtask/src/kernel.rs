//! The kernel: patched source, configuration, build.
//!
//! Each flavour has one work tree in the cache: its source, kept equal to "pristine source + series" by rewriting only
//! files whose content differs, and its objects, which make brings up to date. So a change in one patch costs what that
//! change costs. What a guest boots is copied out of there into an entry of its own, named by everything it is made of.

mod compiled;
pub mod overlay;
mod progress;
mod tables;
mod worktree;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::cache::{Key, Lock, walk};
use crate::cmd::{Cmd, create_dir, read_file, remove, write_file};
use crate::context::Context;
use crate::source::{self, Source};
use crate::toolchain::Toolchain;
use compiled::Configured;
use overlay::{Overlay, is_kconfig};
use progress::Progress;

/// Changes when the steps below build something else from the same inputs.
const RECIPE: &str = "kernel 2";

/// What of the configuration is ours.
const FRAGMENT: &str = "qemu-tests/kernel/kernel.config";

/// What of it is different in the debug kernel.
const DEBUG_FRAGMENT: &str = "qemu-tests/kernel/debug.config";

/// The configuration of a kernel that is only built, to see that it can be.
const CHECK_FRAGMENT: &str = "qemu-tests/kernel/check.config";

/// What a guest boots and what modules need.
const EVERYTHING: &[&str] = &["bzImage", "modules"];

/// The module, where the configuration makes one.
const MODULE: &str = "kernel/spawn_template/spawn_template.ko";

/// The name under which it is kept.
const MODULE_FILE: &str = "spawn_template.ko";

/// What else of a kernel is kept for guests.
const OUTPUTS: [(&str, &str); 3] =
    [("arch/x86/boot/bzImage", "bzImage"), ("System.map", "System.map"), (".config", "config")];

/// Options of ours, which a kernel without the patches does not know.
const OUR_OPTIONS: &str = "SPAWN_TEMPLATE";

/// In the place of the line that makes it a module.
const BUILT_IN: &str = "CONFIG_SPAWN_TEMPLATE=y\n";

/// The language's.
const RUST_OPTION: &str = "CONFIG_RUST=";

/// Which kernel.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    /// With our patches, the implementation as a module
    Patched,
    /// The same with the implementation built in
    Builtin,
    /// The same source and configuration without them
    Upstream,
    /// With our patches and every check that could find a mistake in them: KASAN, lockdep, kmemleak, …; 20 times slower
    Debug,
}

impl Flavor {
    /// The name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Flavor::Patched => "patched",
            Flavor::Builtin => "builtin",
            Flavor::Upstream => "upstream",
            Flavor::Debug => "debug",
        }
    }

    /// Whether it has a module to load.
    fn has_module(self) -> bool {
        matches!(self, Flavor::Patched | Flavor::Debug)
    }

    /// The work tree that it is built in. One with the implementation built in takes a minute from one without.
    fn tree(self) -> &'static str {
        match self {
            Flavor::Patched | Flavor::Builtin => Flavor::Patched.name(),
            Flavor::Upstream | Flavor::Debug => self.name(),
        }
    }
}

/// A kernel that is built.
pub struct Kernel {
    /// Which one.
    pub flavor: Flavor,
    /// What names it in the cache; changes whenever the kernel does.
    pub key: String,
    /// What QEMU boots.
    pub bzimage: PathBuf,
    /// The addresses of its functions.
    pub system_map: PathBuf,
    /// The configuration it was built with.
    pub config: PathBuf,
    /// The module, if the implementation is one.
    pub module: Option<PathBuf>,
    /// What `uname -r` says.
    pub release: String,
}

/// `kernel`
pub fn main(ctx: &Context, flavor: Flavor) -> Result<ExitCode> {
    let kernel = ensure(ctx, flavor)?;
    ctx.ui.note(format!("the {} kernel, Linux {}", kernel.flavor.name(), kernel.release));
    for path in [&kernel.bzimage, &kernel.system_map, &kernel.config] {
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the kernel, after building it when the cache has none.
pub fn ensure(ctx: &Context, flavor: Flavor) -> Result<Kernel> {
    let plan = Plan::new(ctx, flavor)?;
    let entry = ctx.cache.entry(&ctx.ui, "kernel", &plan.key, |partial| {
        let tree = plan.build(ctx)?;
        for (from, to) in OUTPUTS {
            let from = tree.obj.join(from);
            fs::copy(&from, partial.join(to)).with_context(|| format!("cannot keep {}", from.display()))?;
        }
        if flavor.has_module() {
            fs::copy(tree.obj.join(MODULE), partial.join(MODULE_FILE)).context("the build made no module")?;
        }
        write_file(&partial.join("release"), tree.release()?)
    })?;
    Ok(Kernel {
        flavor,
        bzimage: entry.join("bzImage"),
        system_map: entry.join("System.map"),
        config: entry.join("config"),
        module: flavor.has_module().then(|| entry.join(MODULE_FILE)),
        release: read_file(&entry.join("release"))?,
        key: plan.key,
    })
}

/// Whether [`ensure`] would find the kernel in the cache.
pub fn is_built(ctx: &Context, flavor: Flavor) -> Result<bool> {
    Ok(Plan::new(ctx, flavor)?.is_kept(ctx))
}

/// Brings the build tree of `kernel` up to date and returns it, locked, to build modules against.
pub fn tree(ctx: &Context, kernel: &Kernel) -> Result<Tree> {
    let plan = Plan::new(ctx, kernel.flavor)?;
    if plan.key != kernel.key {
        bail!("the patches or the configuration changed during the run; run the same command again");
    }
    plan.build(ctx)
}

/// The C files of the series that `patches check` would not compile, found in seconds: the tree is configured, not built.
pub fn not_compiled(ctx: &Context) -> Result<Vec<PathBuf>> {
    let source = source::ensure(ctx)?;
    let overlay = Overlay::of_checkout(ctx, &source)?;
    let config = Plan::to_check(ctx, source.clone(), overlay.clone(), "m")?.configuration(ctx)?;
    let read = |path: &Path| {
        let file = match overlay.files.get(path) {
            Some(changed) => changed.clone(),
            None => Some(source.dir.join(path)).filter(|file| file.is_file()),
        };
        file.map(|file| read_file(&file)).transpose()
    };
    let c_files = |folder: &Path| {
        let dir = source.dir.join(folder);
        let mut files = Vec::new();
        for item in fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
            let path = folder.join(item?.file_name());
            if path.extension().is_some_and(|extension| extension == "c") {
                files.push(path);
            }
        }
        Ok(files)
    };
    let configured = Configured::new(&config, &read, &c_files);
    let mut missing = Vec::new();
    for (path, content) in &overlay.files {
        if content.is_some() && path.extension().is_some_and(|e| e == "c") && !configured.compiles(path)? {
            missing.push(path.clone());
        }
    }
    Ok(missing)
}

/// The tables of system calls, of whatever architecture, that lack the numbers of ours.
pub fn tables_without_numbers(ctx: &Context) -> Result<Vec<PathBuf>> {
    let source = source::ensure(ctx)?;
    let overlay = Overlay::of_checkout(ctx, &source)?;
    tables::without_numbers(&source, &overlay)
}

/// What is wrong when [`not_compiled`] finds files.
pub fn missing_options(files: &[PathBuf]) -> String {
    format!("{files:?} not compiled\n  next: add what they need to {CHECK_FRAGMENT}")
}

/// Everything a kernel is made of.
pub struct Plan {
    name: &'static str,
    /// The name of its work tree.
    tree: &'static str,
    fragment: &'static str,
    source: Source,
    overlay: Overlay,
    config: String,
    toolchain: Toolchain,
    toolchain_id: String,
    key: String,
}

impl Plan {
    /// The kernel of the checkout.
    pub fn new(ctx: &Context, flavor: Flavor) -> Result<Self> {
        let source = source::ensure(ctx)?;
        let overlay = match flavor {
            Flavor::Patched | Flavor::Builtin | Flavor::Debug => Overlay::of_checkout(ctx, &source)?,
            Flavor::Upstream => Overlay::default(),
        };
        let mut config = read_file(&ctx.root.join(FRAGMENT))?;
        let mut fragment = FRAGMENT;
        if flavor == Flavor::Debug {
            config = merged(&config, &read_file(&ctx.root.join(DEBUG_FRAGMENT))?);
            fragment = DEBUG_FRAGMENT;
        }
        if flavor == Flavor::Builtin {
            config = merged(&config, BUILT_IN);
        }
        Self::made_of(flavor.name(), flavor.tree(), fragment, config, source, overlay)
    }

    /// The smallest kernel with these changes to the pristine source, with this value of the series' own option.
    pub fn to_check(ctx: &Context, source: Source, overlay: Overlay, option: &str) -> Result<Self> {
        let mut config = read_file(&ctx.root.join(CHECK_FRAGMENT))?;
        config = merged(&config, &format!("CONFIG_SPAWN_TEMPLATE={option}\n"));
        // It takes time, and nothing needs it before the series' own option does.
        if !overlay.defines_option(OUR_OPTIONS)? {
            config = without(&config, RUST_OPTION);
        }
        Self::made_of("check", "check", CHECK_FRAGMENT, config, source, overlay)
    }

    fn made_of(
        name: &'static str,
        tree: &'static str,
        fragment: &'static str,
        mut config: String,
        source: Source,
        overlay: Overlay,
    ) -> Result<Self> {
        // Upstream does not know our options; halfway through the series the kernel may not either.
        if !overlay.defines_option(OUR_OPTIONS)? {
            config = without(&config, OUR_OPTIONS);
        }
        let toolchain = Toolchain::detect()?;
        let toolchain_id = toolchain.id()?;
        let key = Key::new(RECIPE)
            .text("flavor", name)
            .text("source", &source.id)
            .text("overlay", &overlay.digest)
            .text("config", &config)
            .text("toolchain", &toolchain_id)
            .finish();
        Ok(Self { name, tree, fragment, source, overlay, config, toolchain, toolchain_id, key })
    }

    /// What names this kernel: everything it is made of.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Whether the cache has this kernel, ready to boot.
    pub fn is_kept(&self, ctx: &Context) -> bool {
        ctx.cache.entry_path("kernel", &self.key).exists()
    }

    /// Makes this kind's work tree hold this kernel, built, and returns it locked.
    pub fn build(&self, ctx: &Context) -> Result<Tree> {
        self.build_with(ctx, EVERYTHING, None)
    }

    /// The same with these arguments of make's, which are always the same for one kind. If the tree holds the kernel that
    /// `harmless` names, what does not change itself need not be compiled again because of the files it lists.
    pub fn build_with(&self, ctx: &Context, arguments: &[&str], harmless: Option<(&str, &[PathBuf])>) -> Result<Tree> {
        let lock = ctx.cache.lock(&ctx.ui, &format!("build-of-the-{}-kernel", self.tree))?;
        let work = ctx.cache.path("work").join(self.tree);
        let tree =
            Tree { src: work.join("src"), obj: work.join("obj"), toolchain: self.toolchain.clone(), _lock: lock };
        // Says that everything below is done, for exactly this kernel. It is absent while anything is being changed.
        let built = work.join("built");
        let before = fs::read_to_string(&built).unwrap_or_default();
        if before == self.key {
            return Ok(tree);
        }
        remove(&built)?;
        create_dir(&work)?;
        self.forget_objects_of_other_compilers(&work, &tree.obj)?;
        worktree::sync(ctx, &work, &self.source, &self.overlay)?;
        if let Some((_, paths)) = harmless.filter(|(key, _)| *key == before) {
            for path in paths {
                worktree::pretend_old(&tree.src.join(path))?;
            }
        }
        self.configure(ctx, &tree)?;
        self.make(ctx, &tree, arguments)?;
        write_file(&built, &self.key)?;
        Ok(tree)
    }

    fn forget_objects_of_other_compilers(&self, work: &Path, obj: &Path) -> Result<()> {
        let stamp = work.join("toolchain");
        if !fs::read_to_string(&stamp).is_ok_and(|id| id == self.toolchain_id) {
            remove(&stamp)?;
            remove(obj)?;
            create_dir(obj)?;
            write_file(&stamp, &self.toolchain_id)?;
        }
        Ok(())
    }

    fn configure(&self, ctx: &Context, tree: &Tree) -> Result<()> {
        let name = self.name;
        let step = ctx.ui.step(format!("configure the {name} kernel"));
        let fragment = tree.obj.join("fragment.config");
        write_file(&fragment, &self.config)?;
        tree.make(ctx).arg("allnoconfig").env("KCONFIG_ALLCONFIG", &fragment).step("configuring the kernel").run(
            ctx,
            &format!("kernel-{name}-config"),
            |line| step.progress(line),
        )?;
        let lost = lost_options(&self.config, &read_file(&tree.obj.join(".config"))?);
        if !lost.is_empty() {
            bail!(
                "{} option(s) of {} did not survive the kernel's configuration:\n  {}\n  next: add what they \
                 depend on, or remove them",
                lost.len(),
                self.fragment,
                lost.join("\n  ")
            );
        }
        step.done("");
        Ok(())
    }

    /// The configuration alone, without a work tree: Kconfig looks for each file beside the objects first, where those
    /// are that the series changes, and then in the pristine source.
    fn configuration(&self, ctx: &Context) -> Result<String> {
        let lock = ctx.cache.lock(&ctx.ui, &format!("configuration-of-the-{}-kernel", self.name))?;
        let obj = ctx.cache.path("work").join(format!("{}-config", self.name));
        create_dir(&obj)?;
        for old in walk(&obj)?.into_iter().filter(|path| is_kconfig(path)) {
            remove(&obj.join(old))?;
        }
        for (path, content) in self.overlay.files.iter().filter(|(path, _)| is_kconfig(path)) {
            let Some(content) = content else { continue };
            let to = obj.join(path);
            create_dir(to.parent().unwrap_or(&obj))?;
            fs::copy(content, &to).with_context(|| format!("cannot write {}", to.display()))?;
        }
        let tree = Tree { src: self.source.dir.clone(), obj, toolchain: self.toolchain.clone(), _lock: lock };
        self.configure(ctx, &tree)?;
        read_file(&tree.obj.join(".config"))
    }

    fn make(&self, ctx: &Context, tree: &Tree, arguments: &[&str]) -> Result<()> {
        let name = self.name;
        let step = ctx.ui.step(format!("build the {name} kernel"));
        // The first build of a tree compiles everything; later ones only what changed, and who knows how much that is.
        let first = !tree.obj.join("vmlinux").exists();
        let mut progress = Progress::new(first.then_some(progress::STEPS_OF_A_FULL_BUILD));
        tree.make(ctx)
            .args(arguments)
            .step(format!("building the {name} kernel"))
            .hint("the same command continues where this stopped; `cargo xtask clean` starts from nothing")
            .run(ctx, &format!("kernel-{name}"), |line| {
                if let Some(text) = progress.line(line) {
                    step.progress(text);
                }
            })?;
        step.done(format!("{} steps", progress.done()));
        Ok(())
    }
}

/// A work tree in which a kernel is built. Nobody else changes it as long as this value lives.
pub struct Tree {
    /// The source, patched.
    pub src: PathBuf,
    /// The objects.
    pub obj: PathBuf,
    /// Its compilers.
    pub toolchain: Toolchain,
    _lock: Lock,
}

impl Tree {
    /// `make` in this tree, with its compilers, still without a target.
    pub fn make(&self, ctx: &Context) -> Cmd {
        let mut make = Cmd::new("make")
            .dir(&self.src)
            .arg(format!("O={}", self.obj.display()))
            .arg(format!("-j{}", ctx.jobs))
            .args(self.toolchain.make_args())
            // Even set to nothing this keeps git, where the cache lies in a checkout, out of the version.
            .arg("LOCALVERSION=")
            // The same inputs give the same image.
            .env("KBUILD_BUILD_TIMESTAMP", "2026-01-01 00:00:00 UTC")
            .env("KBUILD_BUILD_VERSION", "1")
            .env("KBUILD_BUILD_USER", "spawn-template")
            .env("KBUILD_BUILD_HOST", "xtask");
        if let Some(libclang) = &self.toolchain.llvm.libclang {
            make = make.env("LIBCLANG_PATH", libclang);
        }
        make
    }

    fn release(&self) -> Result<String> {
        Ok(read_file(&self.obj.join("include/config/kernel.release"))?.trim().to_owned())
    }
}

/// A fragment with the lines of another one, which take the place of those about the same options.
fn merged(base: &str, other: &str) -> String {
    let replaced =
        |line: &str| option(line).is_some_and(|(name, _)| other.lines().filter_map(option).any(|o| o.0 == name));
    let kept = base.lines().filter(|line| !replaced(line));
    kept.chain(other.lines()).map(|line| format!("{line}\n")).collect()
}

/// A fragment without the lines that contain `word`.
fn without(config: &str, word: &str) -> String {
    config.lines().filter(|line| !line.contains(word)).map(|line| format!("{line}\n")).collect()
}

/// The options of a fragment that a configuration does not have as asked.
fn lost_options(fragment: &str, config: &str) -> Vec<String> {
    let value_in = |name: &str| {
        let line = config.lines().filter_map(option).find(|(option, _)| *option == name);
        line.map_or("n", |(_, value)| value)
    };
    fragment
        .lines()
        .filter_map(option)
        .filter(|(name, wanted)| value_in(name) != *wanted)
        .map(|(name, wanted)| format!("{name}={wanted} became {}", value_in(name)))
        .collect()
}

/// Reads `CONFIG_X=value` and `# CONFIG_X is not set`.
fn option(line: &str) -> Option<(&str, &str)> {
    match line.strip_prefix("# ").and_then(|rest| rest.strip_suffix(" is not set")) {
        Some(name) => Some((name, "n")),
        None => line.split_once('=').filter(|(name, _)| name.starts_with("CONFIG_")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_fragment_wins() {
        let base = "# why\nCONFIG_A=y\nCONFIG_AB=y\n# CONFIG_C is not set\n";
        let merged = merged(base, "# because\n# CONFIG_A is not set\nCONFIG_C=3\n");
        assert_eq!(merged, "# why\nCONFIG_AB=y\n# because\n# CONFIG_A is not set\nCONFIG_C=3\n");
    }

    #[test]
    fn options_that_do_not_survive_are_named() {
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_N=64\nCONFIG_S=\"a b\"\n";
        assert!(lost_options("# why\nCONFIG_A=y\nCONFIG_N=64\nCONFIG_S=\"a b\"\n", config).is_empty());
        assert!(
            lost_options("# CONFIG_B is not set\n# CONFIG_UNKNOWN is not set\nCONFIG_UNKNOWN=n", config).is_empty()
        );
        assert_eq!(
            lost_options("CONFIG_B=y\nCONFIG_UNKNOWN=y\nCONFIG_N=8\n# CONFIG_A is not set\n", config),
            ["CONFIG_B=y became n", "CONFIG_UNKNOWN=y became n", "CONFIG_N=8 became 64", "CONFIG_A=n became y"]
        );
    }
}
