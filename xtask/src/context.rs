//! What every step shares: where things are and what was asked for.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::cache::Cache;
use crate::ui::Ui;

/// Options that every subcommand accepts.
#[derive(clap::Args, Clone)]
pub struct GlobalArgs {
    /// Where downloads and builds are kept [default: $XDG_CACHE_HOME/spawn-template]
    #[arg(long, global = true, value_name = "DIR", env = "SPAWN_TEMPLATE_CACHE")]
    pub cache_dir: Option<PathBuf>,
    /// Name what is missing and stop, instead of installing it
    #[arg(long, global = true)]
    pub no_install: bool,
    /// A Linux 7.3 tree or tarball to use instead of obtaining one
    #[arg(long, global = true, value_name = "PATH", env = "SPAWN_TEMPLATE_KERNEL_SOURCE")]
    pub kernel_source: Option<PathBuf>,
    /// Force an accelerator instead of using KVM where it really works
    #[arg(long, global = true, value_enum)]
    pub accel: Option<Accel>,
    /// How many jobs make runs at once [default: the number of processors]
    #[arg(long, short, global = true, value_name = "N")]
    pub jobs: Option<usize>,
}

/// How QEMU runs guest code.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// Hardware virtualisation
    Kvm,
    /// Translation in software
    Tcg,
}

/// The state of one invocation.
pub struct Context {
    /// The top of the checkout.
    pub root: PathBuf,
    /// Everything slow, kept between invocations.
    pub cache: Cache,
    /// Where progress goes.
    pub ui: Ui,
    /// Do not install anything.
    pub no_install: bool,
    /// The kernel source that was given.
    pub kernel_source: Option<PathBuf>,
    /// The accelerator that was asked for.
    pub accel: Option<Accel>,
    /// Parallel jobs for make.
    pub jobs: usize,
}

impl Context {
    /// Opens the cache and reads the machine's limits.
    pub fn new(args: &GlobalArgs) -> Result<Self> {
        let ui = Ui::new();
        let cache = Cache::open(args.cache_dir.as_deref(), &ui)?;
        let jobs = match args.jobs {
            Some(jobs) => jobs.max(1),
            None => std::thread::available_parallelism().map_or(1, |n| n.get()),
        };
        let kernel_source = match &args.kernel_source {
            Some(path) => Some(
                path.canonicalize().with_context(|| format!("the kernel source {} cannot be read", path.display()))?,
            ),
            None => None,
        };
        Ok(Self { root: repo_root(), cache, ui, no_install: args.no_install, kernel_source, accel: args.accel, jobs })
    }
}

/// The top of the checkout this binary was built from.
pub fn repo_root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_path_buf()
}
