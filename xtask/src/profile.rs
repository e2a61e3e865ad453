//! `profile`: where the instructions of a spawn are executed.
//!
//! guest-bench runs as it does for `bench`, with a plugin in QEMU's translator that counts what is executed between the
//! marks around each sample: nothing of the boot, the warm-up or the pauses, so nothing need be subtracted.

mod diff;
mod flame;
mod groups;
mod raw;
mod report;
mod symbols;

use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::bench::SETTLE;
use crate::bench::report::{CHILDREN, Line, METHODS, PARENTS, PROGRAMS};
use crate::cmd::{read_file, write_file};
use crate::context::Context;
use crate::kernel::Flavor;
use crate::programs;
use crate::qemu::{self, End, FOLDER, Plugin, memory_file};
use crate::run::Machine;
use raw::Raw;
use report::{Profile, Subject};
use symbols::Symbols;

/// How far the plugin's count may be from the guest's clock, in per cent.
const TOLERANCE: f64 = 3.0;

/// The ways to start a child: those of the benchmark's table, and `spawn_template` whose caller goes on once the child
/// exists.
fn ways() -> Vec<&'static str> {
    [&METHODS[..], &["spawn_template_nowait"]].concat()
}

/// Arguments of `profile`.
#[derive(clap::Args)]
pub struct ProfileArgs {
    /// How the child is started
    #[arg(value_parser = ways())]
    method: String,
    /// The child
    #[arg(value_parser = [CHILDREN, PROGRAMS].concat())]
    child: String,
    /// Profile METHOD_A as well, and show what METHOD has more or less of: `--diff METHOD_A METHOD_B CHILD`
    #[arg(long, value_name = "METHOD_A", value_parser = ways(), conflicts_with = "against")]
    diff: Option<String>,
    /// Show what METHOD has more or less of than the profile that an earlier run wrote to FILE with --json
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// What starts it
    #[arg(long, value_name = "NAME", default_value = "small", value_parser = PARENTS.map(|parent| parent.0))]
    parent: String,
    /// How many functions the table shows
    #[arg(long, value_name = "N", default_value_t = 40)]
    top: usize,
    /// Order the functions by what they cost with what they call, instead of by their own instructions
    #[arg(long, conflicts_with_all = ["diff", "against"])]
    inclusive: bool,
    /// Also show who calls this function, and at what cost; may be repeated
    #[arg(long, value_name = "FUNCTION")]
    callers: Vec<String>,
    /// Also write everything, call paths included, to FILE as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw a flame graph to FILE as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// How many spawns to take the mean of
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    iterations: u32,
    /// Which kernel
    #[arg(long, value_enum, default_value = "patched")]
    kernel: Flavor,
    /// Boot this kernel image instead of building one
    #[arg(long, value_name = "PATH", hide = true)]
    kernel_image: Option<PathBuf>,
    /// The module for --kernel-image
    #[arg(long, value_name = "PATH", hide = true, requires = "kernel_image")]
    module: Option<PathBuf>,
}

/// `profile`
pub fn main(ctx: &Context, args: ProfileArgs) -> Result<ExitCode> {
    // Before minutes pass: can the results be written, and is there what they are to be compared with?
    for path in [&args.json, &args.svg].into_iter().flatten() {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        ensure!(folder.is_none_or(Path::is_dir), "there is no folder for {}", path.display());
    }
    let earlier = args.against.as_deref().map(read).transpose()?;
    let other = args.diff.as_ref().map(|method| take(ctx, &args, method)).transpose()?.or(earlier);
    let profile = take(ctx, &args, &args.method)?;
    match &other {
        Some(other) => print!("{}", diff::table(other, &profile, args.top)),
        None => print!("{}", profile.table(args.top, args.inclusive)),
    }
    for function in &args.callers {
        print!("{}", profile.callers(function));
    }
    if let Some(path) = &args.json {
        write_file(path, profile.json()?)?;
        ctx.ui.note(format!("the profile as JSON: {}", path.display()));
    }
    if let Some(path) = &args.svg {
        write_file(path, flame::svg(&profile))?;
        ctx.ui.note(format!("the flame graph: {}", path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads a profile that an earlier run has written.
fn read(path: &Path) -> Result<Profile> {
    let profile = serde_json::from_str(&read_file(path)?);
    profile.with_context(|| format!("{} is no profile; write one with --json", path.display()))
}

/// Profiles one method.
fn take(ctx: &Context, args: &ProfileArgs, method: &str) -> Result<Profile> {
    let (kernel_image, module) = (args.kernel_image.clone(), args.module.clone());
    let machine = Machine { kernel_image, module, ..Machine::usual(1) };
    let mut guest = machine.guest(ctx, args.kernel, "profile")?;
    guest.payload.copy(&programs::bench(ctx)?, &Path::new(FOLDER).join("guest-bench"))?;
    programs::add_children(ctx, &mut guest.payload)?;
    let mut counted = memory_file("profile")?;
    guest.plugin = Some(Plugin { library: programs::profile_plugin(ctx)?, out: counted.try_clone()? });
    guest.icount = true;
    guest.argv = command(args, method);
    guest.timeout = Duration::from_secs(1800);

    let step = ctx.ui.step(format!("profile {method} of the {} child", args.child));
    let (mut said, mut complaints) = (Vec::new(), Vec::new());
    let outcome = guest.run(ctx, &mut qemu::keep(&mut said), &mut qemu::keep(&mut complaints), None)?;
    if !outcome.is_clean() {
        outcome.explain();
        if let End::Qemu(_) = outcome.end {
            bail!(
                "QEMU does not run with the profiler's plugin\n  next: use QEMU 7.2, for which the plugin is written"
            );
        }
        let complaints = String::from_utf8_lossy(&complaints);
        bail!("there is no profile ({:?}); guest-bench said: {:?}", outcome.end, complaints.trim());
    }
    let mut text = String::new();
    counted.rewind()?;
    counted.read_to_string(&mut text).context("cannot read what the profiler's plugin wrote")?;
    let profile = put_together(args, method, &Raw::parse(&text)?, &String::from_utf8_lossy(&said))?;
    step.done(format!("{} spawns", profile.samples));
    if profile.deviation().abs() > TOLERANCE {
        ctx.ui.note(format!(
            "warning: the count is {:+.1} % from the guest's clock; take more samples with --iterations",
            profile.deviation()
        ));
    }
    Ok(profile)
}

/// What the guest does: measure, then name the kernel's functions where they are. As in `bench` no shell waits for it:
/// one that has the C library mapped spares a dynamic child 70 000 instructions, because the kernel counts a page as
/// mapped only when its first mapping comes and its last one goes.
fn command(args: &ProfileArgs, method: &str) -> Vec<String> {
    let mut command = vec![format!("{FOLDER}/guest-bench"), "--symbols".into()];
    let budget = u64::MAX.to_string();
    let (iterations, settle) = (args.iterations.to_string(), SETTLE.as_nanos().to_string());
    for (option, value) in [
        ("--iterations", iterations.as_str()),
        ("--budget", budget.as_str()),
        ("--settle", settle.as_str()),
        ("--methods", method),
        ("--parents", args.parent.as_str()),
        ("--programs", args.child.as_str()),
    ] {
        command.extend([option.to_owned(), value.to_owned()]);
    }
    command
}

/// Joins what the plugin counted and what the guest said.
fn put_together(args: &ProfileArgs, method: &str, raw: &Raw, said: &str) -> Result<Profile> {
    let (lines, symbols): (Vec<&str>, Vec<&str>) = said.lines().partition(|line| line.starts_with('{'));
    let (mut release, mut sample) = (None, None);
    for line in lines {
        match Line::parse(line)? {
            Line::Missing { method } => bail!("this kernel has no {method}\n  next: profile another method"),
            Line::Result(result) => sample = Some(result),
            Line::Machine(machine) => release = Some(machine.kernel),
            _ => {}
        }
    }
    let (Some(kernel), Some(sample)) = (release, sample) else { bail!("guest-bench ended before its last line") };
    ensure!(raw.samples == sample.n, "the plugin saw {} samples, guest-bench took {}", raw.samples, sample.n);
    let symbols = Symbols::parse(symbols);
    ensure!(!symbols.is_empty(), "the guest's /proc/kallsyms names no function");
    let subject = Subject { kernel, method: method.into(), child: args.child.clone(), parent: args.parent.clone() };
    Ok(Profile::new(subject, raw, &symbols, sample.typical))
}
