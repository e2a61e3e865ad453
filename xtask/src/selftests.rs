//! `selftests`: do the kernel's own tests of exec, clone and pidfds come to the same on both kernels?
//!
//! The programs are built once, from the pristine source, and run on the upstream and on the patched kernel: what
//! differs then is what the patches changed.

mod ktap;
mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::cache::Key;
use crate::cmd::{Cmd, read_file, remove, write_file};
use crate::context::Context;
use crate::kernel::Flavor;
use crate::prereq;
use crate::qemu::{self, End, FOLDER};
use crate::run::Machine;
use crate::source;
use ktap::Test;
use report::Report;

/// Changes when the steps below build something else from the same inputs.
const RECIPE: &str = "selftests 1";

/// The folders below tools/testing/selftests that try what the patches touch.
const TARGETS: &str = "exec clone3 pidfd core";

/// How long one test program may take, in seconds. The usual 45 are meant for hardware; pidfd_test forks 33 000 times.
const PROGRAM_TIMEOUT: &str = "900";

/// How often a test whose results differ is repeated, on both kernels: a few of them fail now and then on any kernel.
const REPETITIONS: usize = 10;

/// Arguments of `selftests`.
#[derive(clap::Args)]
#[command(after_help = "\
Builds the kernel's own tests (tools/testing/selftests: exec, clone3, pidfd, core) once, runs them on the upstream and
on the patched kernel, prints the results side by side and fails when they differ. What fails or is skipped on both does
not count. What differs is repeated ten times on both kernels: it counts when its usual result differs.")]
pub struct SelftestsArgs {
    /// Also write the results to FILE as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How long all tests may take on each kernel
    #[arg(long, value_name = "SECS", default_value_t = 3600)]
    timeout: u64,
    /// Boot this kernel image as the patched one instead of building it
    #[arg(long, value_name = "PATH", hide = true)]
    kernel_image: Option<PathBuf>,
    /// The module for --kernel-image
    #[arg(long, value_name = "PATH", hide = true, requires = "kernel_image")]
    module: Option<PathBuf>,
    /// Boot this kernel image as the upstream one instead of building it
    #[arg(long, value_name = "PATH", hide = true)]
    upstream_image: Option<PathBuf>,
}

/// `selftests`
pub fn main(ctx: &Context, args: SelftestsArgs) -> Result<ExitCode> {
    // Before builds that take minutes: can the results be written where they are wanted?
    if let Some(path) = &args.json {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        ensure!(folder.is_none_or(Path::is_dir), "there is no folder for {}", path.display());
    }
    prereq::ensure_for_selftests(ctx)?;
    let programs = build(ctx)?;
    let on_both = |tests: &[String], times| -> Result<_> {
        let upstream = run(ctx, &args, Flavor::Upstream, &programs, tests, times)?;
        Ok((upstream, run(ctx, &args, Flavor::Patched, &programs, tests, times)?))
    };
    let (upstream, patched) = on_both(&[], 1)?;
    let mut report = Report::new(upstream, patched);
    let differing: Vec<_> = report.differing().iter().filter_map(|name| in_list(name)).collect();
    if !differing.is_empty() {
        ctx.ui.note(format!("{} differ; {REPETITIONS} more times: {}", differing.len(), differing.join(", ")));
        let (upstream, patched) = on_both(&differing, REPETITIONS)?;
        report.add(upstream, patched);
    }
    println!("{}", report.table());
    if let Some(path) = &args.json {
        write_file(path, report.json()?).context("the results are lost")?;
        ctx.ui.note(format!("results as JSON: {}", path.display()));
    }
    let differences = report.differences();
    if differences > 0 {
        eprintln!("error: {differences} of the kernel's tests differ between the upstream and the patched kernel");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the folder with the tests as `make install` lays them out, after building them when the cache has none.
fn build(ctx: &Context) -> Result<PathBuf> {
    let source = source::ensure(ctx)?;
    let version = Cmd::new("gcc").arg("--version").read()?;
    let key = Key::new(RECIPE).text("source", &source.id).text("targets", TARGETS).text("cc", version).finish();
    let entry = ctx.cache.entry(&ctx.ui, "selftests", &key, |folder| {
        let step = ctx.ui.step("build the kernel's selftests");
        let objects = folder.join("objects");
        let make = |dir: &Path| {
            let make = Cmd::new("make").dir(dir).arg(format!("O={}", objects.display()));
            make.arg(format!("-j{}", ctx.jobs)).step("building the kernel's selftests")
        };
        // The beginning of a command says enough.
        let show = |line: &str| step.progress(line.trim().chars().take(60).collect::<String>());
        make(&source.dir).arg("headers").run(ctx, "selftests-headers", show)?;
        make(&source.dir.join("tools/testing/selftests"))
            .arg(format!("TARGETS={TARGETS}"))
            .arg(format!("KSFT_INSTALL_PATH={}", folder.join("installed").display()))
            // All of them or none; and no test of BPF, which would need this machine's kernel to be like the guest's.
            .args(["FORCE_TARGETS=1", "HAVE_BPF_TOOLCHAIN=n", "install"])
            .run(ctx, "selftests", show)?;
        // A makefile's remark on what it leaves out gets into the list, and the runner would take its words for folders.
        let list = folder.join("installed/kselftest-list.txt");
        write_file(&list, tests_in(&read_file(&list)?))?;
        remove(&objects)?;
        step.done("");
        Ok(())
    })?;
    Ok(entry.join("installed"))
}

/// The lines of a list that name a test, as "exec:execveat".
fn tests_in(list: &str) -> String {
    let is_test = |line: &&str| line.contains(':') && !line.contains(char::is_whitespace);
    list.lines().filter(is_test).map(|line| format!("{line}\n")).collect()
}

/// What the runner calls the test that its output calls "exec: execveat"; none for what is no program.
fn in_list(name: &str) -> Option<String> {
    name.split_once(": ").map(|(folder, test)| format!("{folder}:{test}"))
}

/// Runs these tests, or all, so many times on one kernel.
fn run(
    ctx: &Context,
    args: &SelftestsArgs,
    flavor: Flavor,
    programs: &Path,
    tests: &[String],
    times: usize,
) -> Result<Vec<Test>> {
    let (kernel_image, module) = match flavor {
        Flavor::Upstream => (args.upstream_image.clone(), None),
        _ => (args.kernel_image.clone(), args.module.clone()),
    };
    let machine = Machine { kernel_image, module, ..Machine::usual(2) };
    let mut guest = machine.guest(ctx, flavor, "selftests")?;
    guest.payload.copy(programs, &Path::new(FOLDER).join("selftests"))?;
    let missing = guest.payload.add_libraries(|name| guest.image.has_library(name))?;
    ensure!(missing.is_empty(), "libraries of the tests are nowhere to be found: {}", missing.join(", "));
    // That a test failed is for us to judge.
    let runner = ["selftests/run_kselftest.sh", "--no-error-on-fail", "--override-timeout", PROGRAM_TIMEOUT];
    let repeat = format!("for run in $(seq {times}); do \"$@\" || exit; done");
    guest.argv = ["sh", "-c", &repeat, "sh"].iter().chain(&runner).map(|&word| word.to_owned()).collect();
    guest.argv.extend(tests.iter().flat_map(|test| ["--test".to_owned(), test.clone()]));
    guest.timeout = Duration::from_secs(args.timeout);

    let step = ctx.ui.step(format!("run the kernel's selftests on the {} kernel", flavor.name()));
    step.progress("booting");
    let (log_path, mut log) = ctx.cache.log(&format!("selftests-{}", flavor.name()))?;
    let ((parser, complaints), outcome) = qemu::run_unspoilt(ctx, || {
        let (mut parser, mut complaints) = (ktap::Parser::default(), Vec::new());
        let outcome = guest.run(
            ctx,
            &mut |bytes| {
                parser.feed(bytes);
                if let Some(name) = parser.running() {
                    step.progress(name);
                }
                std::io::Write::write_all(&mut log, bytes)
            },
            &mut qemu::keep(&mut complaints),
            None,
        )?;
        Ok(((parser, complaints), outcome))
    })?;
    outcome.explain();
    let mut tests = parser.finish();
    if !matches!(outcome.end, End::Exited(0)) || tests.is_empty() {
        let said = String::from_utf8_lossy(&complaints);
        bail!(
            "the selftests came to no end on the {} kernel ({:?}): {}\n  what they said: {}",
            flavor.name(),
            outcome.end,
            said.trim(),
            log_path.display()
        );
    }
    // What a kernel has to say about being tested is part of the result.
    tests.push(Test::of_console(outcome.findings.iter().map(|finding| finding.line.as_str())));
    step.done(format!("{} tests", tests.len()));
    Ok(tests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_named_as_the_runner_does() {
        assert_eq!(in_list("pidfd: pidfd_wait").as_deref(), Some("pidfd:pidfd_wait"));
        assert_eq!(in_list("the kernel's console"), None);
    }

    #[test]
    fn only_tests_stay_in_the_list() {
        let list = "exec selftests: skipping binfmt_misc_bpf, needs clang\nexec:execveat\ncore:unshare_test\n";
        assert_eq!(tests_in(list), "exec:execveat\ncore:unshare_test\n");
    }
}
