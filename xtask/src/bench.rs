//! `bench`: the latency table, that of short tools, that of several callers, and all but the tools on one page.

pub mod document;
mod plan;
pub mod report;
pub mod scaling;
pub mod sizes;
mod tools;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::cmd::{create_dir, read_file, write_file};
use crate::context::{Accel, Context};
use crate::kernel::Flavor;
use crate::page;
use crate::programs;
use crate::qemu::{self, FOLDER};
use crate::ui::Step;
use document::Document;
use plan::{Plan, Subject};
use report::{Line, Machine, Report, SPAWN_TEMPLATE, Setup, Unit};

/// How much more upstream's methods may cost on the patched kernel, in per cent.
const TOLERANCE: f64 = 0.5;

/// How long the guest idles before each sample, so that what the one before has left to be done later (freeing after a
/// grace period, a few timer ticks long) is not counted with it. Medians are the same without; the spread is not.
pub const SETTLE: Duration = Duration::from_millis(8);

/// Arguments of `bench`.
#[derive(clap::Args)]
pub struct BenchArgs {
    /// Also write the results to FILE as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Which kernel
    #[arg(long, value_enum, default_value = "patched")]
    kernel: Flavor,
    /// Measure upstream's methods on the patched and on the upstream kernel, and fail when one costs more than
    /// 0.5 % more with our patches. The JSON of the upstream kernel goes to FILE with "upstream" in its name
    #[arg(long, conflicts_with = "kernel")]
    compare_upstream: bool,
    /// How many samples of each method with each child and parent, however long that takes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    iterations: Option<u32>,
    /// A rough table in a fraction of the time
    #[arg(long)]
    quick: bool,
    /// Instead of what a start costs: short tools (grep, sed, git status, a small Python program, …), by themselves and
    /// by sh -c, from one runtime with 1 and with 4 calls in flight; std's Command, posix_spawn and the crate
    #[arg(long, conflicts_with = "compare_upstream")]
    tools: bool,
    /// Instead of what one start costs: what 1, 2 and 4 threads that start programs at the same time come to, with
    /// posix_spawn, with one template and with one each; in instructions, and in spawns per second on two processors
    #[arg(long, conflicts_with_all = ["compare_upstream", "tools"])]
    scaling: bool,
    /// Instead of what one start of many costs: what one costs by a template that is made for two
    #[arg(long, conflicts_with_all = ["compare_upstream", "tools", "scaling"])]
    first_use: bool,
    /// Measure the latencies, what they are over the caller's memory, and several callers, and write DIR/index.html, one
    /// page with tables and plots, and DIR/bench.json
    #[arg(long, value_name = "DIR", conflicts_with_all = ["compare_upstream", "tools", "scaling", "first_use"])]
    report: Option<PathBuf>,
    /// Do not measure: draw the page from what an earlier run wrote to FILE
    #[arg(long, value_name = "FILE", requires = "report", conflicts_with_all = ["json", "kernel", "iterations", "quick"])]
    from: Option<PathBuf>,
    /// Boot this kernel image instead of building one
    #[arg(long, value_name = "PATH", hide = true, conflicts_with = "compare_upstream")]
    kernel_image: Option<PathBuf>,
    /// The module for --kernel-image
    #[arg(long, value_name = "PATH", hide = true, requires = "kernel_image")]
    module: Option<PathBuf>,
}

/// `bench`
pub fn main(ctx: &Context, args: BenchArgs) -> Result<ExitCode> {
    // Before a build that takes minutes: can the results be written where they are wanted?
    if let Some(path) = &args.json {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        ensure!(folder.is_none_or(Path::is_dir), "there is no folder for {}", path.display());
    }
    if let (Some(folder), Some(file)) = (&args.report, &args.from) {
        let document = Document::read(file)?;
        return draw(ctx, folder, &document, page::Optimisations::read(ctx)?.as_ref(), read_file(file)?);
    }
    let (accel, why) = qemu::accelerator(ctx)?;
    ctx.ui.note(match accel {
        Accel::Tcg => format!("no KVM ({why}): counting guest instructions"),
        Accel::Kvm if ctx.accel.is_some() || args.report.is_some() => format!("KVM ({why}): measuring wall time"),
        Accel::Kvm => format!("KVM ({why}): counting guest instructions without it, then measuring wall time with it"),
    });
    // The last one is the one that --json asks for.
    let units: &[Unit] = match accel {
        Accel::Tcg => &[Unit::Instructions],
        Accel::Kvm if ctx.accel.is_some() => &[Unit::Ns],
        Accel::Kvm => &[Unit::Instructions, Unit::Ns],
    };
    if args.scaling {
        return several_callers(ctx, &args, accel);
    }
    if let Some(folder) = &args.report {
        return everything(ctx, &args, accel, folder);
    }
    let mut code = ExitCode::SUCCESS;
    for (index, &unit) in units.iter().enumerate() {
        let variant = if index + 1 == units.len() { None } else { Some("instructions") };
        let json = args.json.as_deref().map(|path| variant.map_or(path.to_owned(), |variant| beside(path, variant)));
        if args.compare_upstream {
            if !compare(ctx, &args, unit, json.as_deref())? {
                code = ExitCode::FAILURE;
            }
        } else if args.tools {
            let lines = lines(ctx, &args, args.kernel, unit, Subject::Tools)?;
            let report = tools::Report::new(Setup::new(unit), Subject::Tools.processors(unit), lines)?;
            println!("{}", report.table());
            write_json(ctx, report.json()?, json.as_deref())?;
        } else {
            let report = measure(ctx, &args, args.kernel, unit)?;
            println!("{}", report.table());
            write_json(ctx, report.json()?, json.as_deref())?;
        }
    }
    Ok(code)
}

/// `bench --scaling`
fn several_callers(ctx: &Context, args: &BenchArgs, accel: Accel) -> Result<ExitCode> {
    let (scaling, machine) = scaling_blocks(ctx, args, accel)?;
    for block in &scaling {
        println!("{}", block.table());
    }
    let Setup { accel, unit, .. } = Setup::new(scaling.first().map_or(Unit::Instructions, |block| block.unit));
    let (kernel, accel) = (machine.kernel.clone(), accel.to_owned());
    let document =
        Document { kernel, accel, unit, results: Vec::new(), machine: Some(machine), sizes: Vec::new(), scaling };
    write_json(ctx, document.json()?, args.json.as_deref())?;
    Ok(ExitCode::SUCCESS)
}

/// Measures several callers: in instructions, unless KVM was asked for, and in wall time, with KVM or without.
fn scaling_blocks(ctx: &Context, args: &BenchArgs, accel: Accel) -> Result<(Vec<scaling::Block>, Machine)> {
    let kvm = accel == Accel::Kvm;
    let units: &[Unit] = if kvm && ctx.accel.is_some() { &[Unit::Ns] } else { &[Unit::Instructions, Unit::Ns] };
    let (mut blocks, mut machine) = (Vec::new(), None);
    for &unit in units {
        let lines = lines(ctx, args, args.kernel, unit, Subject::Scaling)?;
        let setup = scaling::setup(unit, kvm);
        let (block, found) = scaling::Block::new(&setup, Subject::Scaling.processors(unit), lines)?;
        blocks.push(block);
        machine = machine.or(Some(found));
    }
    Ok((blocks, machine.context("nothing was measured")?))
}

/// `bench --report`
fn everything(ctx: &Context, args: &BenchArgs, accel: Accel, folder: &Path) -> Result<ExitCode> {
    // Before minutes pass: can the page be drawn and written?
    let optimisations = page::Optimisations::read(ctx)?;
    create_dir(folder)?;
    let unit = if accel == Accel::Kvm { Unit::Ns } else { Unit::Instructions };
    let report = measure(ctx, args, args.kernel, unit)?;
    println!("{}", report.table());
    let sized = Report::new(Setup::new(unit), lines(ctx, args, args.kernel, unit, Subject::Sizes)?)?;
    let sizes: Vec<_> = sized.samples.iter().filter_map(sizes::Size::new).collect();
    println!("{}", sizes::table(&sizes, unit.thousand()));
    let (scaling, _) = scaling_blocks(ctx, args, accel)?;
    for block in &scaling {
        println!("{}", block.table());
    }
    let document = Document { machine: Some(report.machine.clone()), sizes, scaling, ..report.document() };
    let json = document.json()?;
    write_json(ctx, json.clone(), args.json.as_deref())?;
    draw(ctx, folder, &document, optimisations.as_ref(), json)
}

/// Writes the page, and the figures that it was drawn from beside it.
fn draw(
    ctx: &Context,
    folder: &Path,
    document: &Document,
    optimisations: Option<&page::Optimisations>,
    json: String,
) -> Result<ExitCode> {
    create_dir(folder)?;
    let path = folder.join("index.html");
    write_file(&path, page::html(document, optimisations))?;
    write_file(&folder.join("bench.json"), json)?;
    ctx.ui.note(format!("the page: {}", path.display()));
    Ok(ExitCode::SUCCESS)
}

/// Measures both kernels. False when ours makes upstream's methods cost more.
fn compare(ctx: &Context, args: &BenchArgs, unit: Unit, json: Option<&Path>) -> Result<bool> {
    let upstream = measure(ctx, args, Flavor::Upstream, unit)?;
    let patched = measure(ctx, args, Flavor::Patched, unit)?;
    let differences = report::differences(&upstream, &patched);
    println!("{}", report::comparison(&upstream, &patched, &differences));
    write_json(ctx, upstream.json()?, json.map(|path| beside(path, "upstream")).as_deref())?;
    write_json(ctx, patched.json()?, json)?;
    let more = report::costing_more(&differences, TOLERANCE).len();
    if more > 0 {
        eprintln!("error: {more} of upstream's methods cost more than {TOLERANCE} % more with our patches");
    }
    Ok(more == 0)
}

fn measure(ctx: &Context, args: &BenchArgs, flavor: Flavor, unit: Unit) -> Result<Report> {
    Report::new(Setup::new(unit), lines(ctx, args, flavor, unit, Subject::Latency)?)
}

/// What guest-bench says on this kernel.
fn lines(ctx: &Context, args: &BenchArgs, flavor: Flavor, unit: Unit, subject: Subject) -> Result<Vec<Line>> {
    let icount = unit == Unit::Instructions;
    let plan = Plan::new(args, unit, subject);
    let mut guest = plan.machine(args).guest(ctx, flavor, "bench")?;
    guest.payload.copy(&programs::bench(ctx)?, Path::new(FOLDER).join("guest-bench").as_path())?;
    programs::add_children(ctx, &mut guest.payload)?;
    guest.icount = icount;
    guest.argv = plan.argv();
    guest.timeout = Duration::from_secs(1800);

    let has_templates = guest.module.is_some();
    let counted = if icount { "instructions" } else { "wall time" };
    let step = ctx.ui.step(format!("measure {} on the {} kernel, in {counted}", subject.name(), flavor.name()));
    step.progress("booting");
    let mut output = Output::default();
    let mut complaints = Vec::new();
    let outcome = guest.run(ctx, &mut |bytes| output.take(bytes, &step), &mut qemu::keep(&mut complaints), None)?;
    if !outcome.is_clean() {
        outcome.explain();
        let said = String::from_utf8_lossy(&complaints);
        bail!("the measurement came to nothing ({:?}); guest-bench said: {:?}", outcome.end, said.trim());
    }
    let is_missing = |line: &Line| matches!(line, Line::Missing { method } if method == SPAWN_TEMPLATE);
    if has_templates && !args.compare_upstream && output.lines.iter().any(is_missing) {
        bail!("the module is loaded, and yet the kernel says that it has no {SPAWN_TEMPLATE}");
    }
    let results = output.lines.iter().filter(|line| matches!(line, Line::Result(_) | Line::Tool(_) | Line::Scaling(_)));
    step.done(format!("{} results", results.count()));
    Ok(output.lines)
}

/// Puts guest-bench's lines together and shows what it is doing.
#[derive(Default)]
struct Output {
    partial: Vec<u8>,
    lines: Vec<Line>,
}

impl Output {
    fn take(&mut self, bytes: &[u8], step: &Step) -> io::Result<()> {
        self.partial.extend_from_slice(bytes);
        while let Some(end) = self.partial.iter().position(|&byte| byte == b'\n') {
            let text: Vec<u8> = self.partial.drain(..=end).collect();
            let line = Line::parse(String::from_utf8_lossy(&text).trim_end()).map_err(io::Error::other)?;
            if let Line::Progress { parent, child } = &line {
                step.progress(format!("parent {parent}, child {child}"));
            }
            self.lines.push(line);
        }
        Ok(())
    }
}

fn write_json(ctx: &Context, text: String, path: Option<&Path>) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    write_file(path, text).context("the results are lost")?;
    ctx.ui.note(format!("results as JSON: {}", path.display()));
    Ok(())
}

/// "results.json" with `variant` "upstream" is "results.upstream.json".
fn beside(path: &Path, variant: &str) -> PathBuf {
    match path.extension() {
        Some(extension) => path.with_extension(format!("{variant}.{}", extension.to_string_lossy())),
        None => path.with_extension(variant),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_results_lie_beside_the_file() {
        assert_eq!(beside(Path::new("a/results.json"), "upstream"), Path::new("a/results.upstream.json"));
        assert_eq!(beside(Path::new("results"), "upstream"), Path::new("results.upstream"));
    }
}
