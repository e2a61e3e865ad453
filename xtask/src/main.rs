//! The project's build tool: everything from a fresh clone to test results and the latency table.
//!
//! One file per idea. `context` is what every step shares; `cmd`, `interrupt`, `cache` and `ui` are how steps run
//! commands, stop, remember results and report; `prereq`, `toolchain`, `source`, `kernel`, `module`, `patches` are the
//! build side; `image`, `programs`, `manpage`, `qemu`, `run`, `shell`, `test`, `fuzz`, `selftests`, `bench`,
//! `profile`, `page` are the guest side.

mod bench;
mod cache;
mod cmd;
mod context;
mod fuzz;
mod image;
mod interrupt;
mod kernel;
mod manpage;
mod module;
mod page;
mod patches;
mod prereq;
mod profile;
mod programs;
mod qemu;
mod run;
mod selftests;
mod shell;
mod source;
mod test;
mod toolchain;
mod ui;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use context::{Context, GlobalArgs};
use kernel::Flavor;

/// Builds, boots, tests and measures spawn templates. Start with `cargo xtask bench` or `cargo xtask test`.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure what starting a program costs, through our syscalls and through upstream's ways
    Bench(bench::BenchArgs),
    /// Say in which functions, and under which calls, one way of starting a program executes its instructions
    Profile(profile::ProfileArgs),
    /// Run the test suite in a guest
    Test(test::TestArgs),
    /// Make random calls in a guest, and look for what they leave behind
    Fuzz(fuzz::FuzzArgs),
    /// Run the kernel's own tests of exec, clone and pidfds on the upstream and the patched kernel, and compare
    Selftests(selftests::SelftestsArgs),
    /// Run one command in a guest and exit with its status
    Run(run::RunArgs),
    /// Open an interactive shell in a guest
    Shell(shell::ShellArgs),
    /// Build the kernel
    Kernel(KernelArgs),
    /// Build the module
    Module(module::ModuleArgs),
    /// Build the guest's userland image
    Image,
    /// Remove what was cached
    Clean(cache::CleanArgs),
    /// Say what is installed, what is missing and which accelerator will be used
    Doctor,
    /// Check the patch series, get a tree to edit it in, rewrite it from there
    #[command(subcommand)]
    Patches(patches::PatchesCommand),
}

/// Arguments of `kernel`.
#[derive(clap::Args)]
struct KernelArgs {
    /// Which kernel
    #[arg(long, value_enum, default_value = "patched")]
    kernel: Flavor,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // The status of `run` is that of its command, so a failure of ours has one of its own.
    let failure = match cli.command {
        Command::Run(_) => ExitCode::from(run::STATUS_NOT_RUN),
        _ => ExitCode::FAILURE,
    };
    dispatch(cli).unwrap_or_else(|error| {
        // A command that died of Ctrl-C is not a failure worth describing.
        interrupt::wait_if_interrupted();
        ui::report_error(&error);
        failure
    })
}

fn dispatch(cli: Cli) -> Result<ExitCode> {
    interrupt::install()?;
    // `clean` needs the cache to itself; everything else shares it.
    if let Command::Clean(args) = &cli.command {
        return cache::clean(&cli.global, args);
    }
    let ctx = Context::new(&cli.global)?;
    if needs_tools(&cli.command) {
        prereq::ensure(&ctx)?;
    }
    match cli.command {
        Command::Bench(args) => bench::main(&ctx, args),
        Command::Profile(args) => profile::main(&ctx, args),
        Command::Test(args) => test::main(&ctx, args),
        Command::Fuzz(args) => fuzz::main(&ctx, args),
        Command::Selftests(args) => selftests::main(&ctx, args),
        Command::Run(args) => run::main(&ctx, args),
        Command::Shell(args) => shell::main(&ctx, args),
        Command::Kernel(args) => kernel::main(&ctx, args.kernel),
        Command::Module(args) => module::main(&ctx, args),
        Command::Image => image::main(&ctx),
        Command::Doctor => prereq::doctor(&ctx),
        Command::Patches(command) => patches::main(&ctx, command),
        Command::Clean(_) => unreachable!("handled above"),
    }
}

/// Everything but looking around and rewriting files builds or boots something.
fn needs_tools(command: &Command) -> bool {
    !matches!(command, Command::Doctor | Command::Patches(patches::PatchesCommand::Refresh { .. }))
}
